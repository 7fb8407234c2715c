"""Optimisers of stacked members against torch's own, and the learning-rate table."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cplearn import optim
from cplearn.config import Optimizer


@pytest.mark.parametrize(("name", "theirs"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_every_member_is_optimised_as_by_torch(name: str, theirs: type[torch.optim.Optimizer]) -> None:
    draw = torch.Generator().manual_seed(0)
    settings = [Optimizer(name=name, lr=0.1, weight_decay=0.0), Optimizer(name=name, lr=0.01, weight_decay=0.3)]
    stack = nn.Parameter(torch.randn(2 * 3, 4, generator=draw, dtype=torch.float64))
    singles = [nn.Parameter(part.clone()) for part in stack.data.chunk(2)]
    ours = optim.build(settings, [stack])
    each = [theirs([p], lr=s.lr, weight_decay=s.weight_decay) for p, s in zip(singles, settings, strict=True)]
    rates = torch.tensor([s.lr for s in settings], dtype=torch.float64)
    for _ in range(20):
        stack.grad = torch.randn(stack.shape, generator=draw, dtype=torch.float64)
        for p, part, optimizer in zip(singles, stack.grad.chunk(2), each, strict=True):
            p.grad = part.clone()
            optimizer.step()
        ours.step(rates)
        assert stack.grad is None
    torch.testing.assert_close(stack.data, torch.cat([p.data for p in singles]), rtol=1e-12, atol=1e-12)


def test_norms_are_not_decayed() -> None:
    norm = nn.Parameter(torch.ones(4))
    optimizer = optim.build([Optimizer(name="adamw", weight_decay=0.5)], [norm])
    norm.grad = torch.zeros(4)
    optimizer.step(torch.tensor([0.1]))
    assert torch.equal(norm.data, torch.ones(4))


def test_channels_last_weights_are_updated_alike() -> None:
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        draw = torch.Generator().manual_seed(0)
        weight = torch.randn(4, 3, 3, 3, generator=draw)
        p = nn.Parameter(weight.to(memory_format=memory_format))
        optimizer = optim.build([Optimizer(weight_decay=0.1), Optimizer(weight_decay=0.2)], [p])
        for _ in range(3):
            p.grad = torch.randn(4, 3, 3, 3, generator=draw).to(memory_format=memory_format)
            optimizer.step(torch.tensor([0.1, 0.2]))
        results.append(p.data.contiguous())
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_state_continues() -> None:
    draw = torch.Generator().manual_seed(0)
    grads = torch.randn(6, 5, generator=draw)
    through, before, after = (nn.Parameter(torch.zeros(5)) for _ in range(3))
    whole, first, second = (optim.build([Optimizer()], [p]) for p in (through, before, after))
    rate = torch.tensor([0.1])
    for i, grad in enumerate(grads):
        through.grad = grad.clone()
        whole.step(rate)
        if i == 3:
            after.data.copy_(before.data)
            second.load_state_dict(first.state_dict(), 3)
        part, optimizer = (before, first) if i < 3 else (after, second)
        part.grad = grad.clone()
        optimizer.step(rate)
    assert torch.equal(after.data, through.data)


def test_learning_rates_by_hand() -> None:
    settings = [
        Optimizer(lr=1.0, schedule="constant"),
        Optimizer(lr=1.0, schedule="cosine"),
        Optimizer(lr=1.0, schedule="cosine", warmup_epochs=1, warmup_lr=0.5),
    ]
    table = optim.learning_rates(settings, epochs=3, steps_per_epoch=2)
    assert table.shape == (6, 3)
    assert table[:, 0].tolist() == [1.0] * 6
    expected = [0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert table[:, 1].tolist() == pytest.approx(expected)
    assert table[:, 2].tolist() == pytest.approx(
        [0.5, 0.75, 1.0, *(0.5 * (1 + math.cos(math.pi * s / 4)) for s in (1, 2, 3))]
    )
