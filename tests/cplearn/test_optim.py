"""Optimisers of stacked members against torch's own, one member at a time, and their schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cplearn import optim
from cplearn.config.groups import OptimizerSettings

# A member's own share of a weight, a convolution and a norm; a stack of them has K times the first axis.
SHAPES = [(3, 4), (2, 3, 3, 3), (5,)]


def stack(members: int, draw: torch.Generator) -> tuple[list[nn.Parameter], list[list[nn.Parameter]]]:
    """Stacked parameters in float64, and for each member its own copies."""
    tensors = [torch.randn(members * s[0], *s[1:], generator=draw, dtype=torch.float64) for s in SHAPES]
    alone = [[nn.Parameter(t.chunk(members)[k].clone()) for t in tensors] for k in range(members)]
    return [nn.Parameter(t) for t in tensors], alone


def fill(stacked: Sequence[nn.Parameter], alone: Sequence[Sequence[nn.Parameter]], draw: torch.Generator) -> None:
    """The same random gradients for a stack and for its members."""
    for i, p in enumerate(stacked):
        p.grad = torch.randn(p.shape, generator=draw, dtype=torch.float64)
        for k, own in enumerate(alone):
            own[i].grad = p.grad.chunk(len(alone))[k].clone()


def assert_same(stacked: Sequence[nn.Parameter], alone: Sequence[Sequence[nn.Parameter]]) -> None:
    for i, p in enumerate(stacked):
        expected = torch.cat([own[i].data for own in alone])
        torch.testing.assert_close(p.data, expected, rtol=1e-12, atol=1e-12)


def groups(parameters: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """torch's way to spare norms."""
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]


def theirs(s: OptimizerSettings, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    decayed = groups(parameters, s.weight_decay)
    if s.name == "sgd":
        return torch.optim.SGD(decayed, lr=s.lr, momentum=s.momentum)
    return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[s.name](decayed, lr=s.lr)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_every_member_is_optimised_as_by_torch(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    own: list[dict[str, Any]] = [{"lr": 0.1}, {"lr": 0.01, "weight_decay": 0.3}]
    if name == "sgd":
        own[1]["momentum"] = 0.0
    settings = [OptimizerSettings(name=name, **one) for one in own]
    stacked, alone = stack(2, draw)
    ours, each = optim.build(settings, stacked), [theirs(s, p) for s, p in zip(settings, alone, strict=True)]
    rates = torch.tensor([s.lr for s in settings], dtype=torch.float64)
    for _ in range(20):
        fill(stacked, alone, draw)
        for optimizer in each:
            optimizer.step()
        ours.step(rates)
        assert all(p.grad is None for p in stacked)
    assert_same(stacked, alone)


def naive_lars(w: np.ndarray, g: np.ndarray, v: np.ndarray, s: OptimizerSettings) -> None:
    """One update of one layer in place, written down from solo-learn's description."""
    if w.ndim > 1:
        of_w, of_g = np.sqrt(np.sum(w**2)), np.sqrt(np.sum(g**2))
        if of_w != 0 and of_g != 0:
            local = s.eta * of_w / (of_g + s.weight_decay * of_w + 1e-8)
            g = (g + s.weight_decay * w) * min(local / s.lr, 1)
    v[:] = s.momentum * v + g
    w[:] = w - s.lr * v


def test_lars_is_the_naive_one_for_every_member() -> None:
    draw = torch.Generator().manual_seed(0)
    # The factor is clipped for the small learning rate only.
    settings = [
        OptimizerSettings(name="lars", lr=0.3, weight_decay=1e-2),
        OptimizerSettings(name="lars", lr=1e-3, weight_decay=1e-4, momentum=0.5),
        OptimizerSettings(name="lars", lr=1.5, eta=0.001),
    ]
    stacked, alone = stack(3, draw)
    with torch.no_grad():
        for tensor in (stacked[0].chunk(3)[0], alone[0][0]):
            tensor.zero_()
    ours = optim.build(settings, stacked)
    layers = [[p.data.numpy() for p in own] for own in alone]
    velocities = [[np.zeros_like(w) for w in own] for own in layers]
    for step in range(10):
        fill(stacked, alone, draw)
        if step == 3:
            for p in (stacked[1], *(own[1] for own in alone)):
                p.grad.zero_()
        for s, own, weights, speeds in zip(settings, alone, layers, velocities, strict=True):
            for p, w, v in zip(own, weights, speeds, strict=True):
                naive_lars(w, p.grad.numpy(), v, s)
        ours.step(torch.tensor([s.lr for s in settings], dtype=torch.float64))
    assert_same(stacked, alone)


def test_gradients_of_each_member_are_clipped_as_by_torch() -> None:
    draw = torch.Generator().manual_seed(0)
    settings = [OptimizerSettings(name="sgd", clip=clip, lr=0.1) for clip in (1.0, None, 1e3, 3.0)]
    stacked, alone = stack(4, draw)
    ours, each = optim.build(settings, stacked), [theirs(s, p) for s, p in zip(settings, alone, strict=True)]
    for _ in range(5):
        fill(stacked, alone, draw)
        for s, own, optimizer in zip(settings, alone, each, strict=True):
            if s.clip is not None:
                nn.utils.clip_grad_norm_(own, s.clip)
            optimizer.step()
        ours.step(torch.full((4,), 0.1, dtype=torch.float64))
    assert_same(stacked, alone)


def test_a_member_without_a_limit_is_not_touched_by_the_norm_that_another_is_limited_by() -> None:
    """In single precision the square of 1e20 overflows, and so does the norm."""
    updated = []
    for clips in ([None], [None, 1.0]):
        weight = nn.Parameter(torch.zeros(len(clips) * 2))
        settings = [OptimizerSettings(name="adam", lr=0.1, clip=clip) for clip in clips]
        optimizer = optim.build(settings, [weight], 10)
        weight.grad = torch.full_like(weight, 1e20)
        optimizer.step(torch.full((len(clips),), 0.1))
        updated.append(weight[:2].detach().clone())
    assert torch.equal(*updated)
    assert updated[0].isfinite().all()


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_weight_decay_follows_its_schedule(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    settings = [
        OptimizerSettings(name=name, lr=0.1, weight_decay=0.04, weight_decay_end=0.4),
        OptimizerSettings(name=name, lr=0.1, weight_decay=0.2),
    ]
    stacked, alone = stack(2, draw)
    ours, each = optim.build(settings, stacked, 8), [theirs(s, p) for s, p in zip(settings, alone, strict=True)]
    for step in range(8):
        fill(stacked, alone, draw)
        each[0].param_groups[0]["weight_decay"] = 0.4 + (0.04 - 0.4) * 0.5 * (1 + math.cos(math.pi * step / 8))
        for optimizer in each:
            optimizer.step()
        ours.step(torch.full((2,), 0.1, dtype=torch.float64))
    assert_same(stacked, alone)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_a_member_that_overflows_skips_its_update_as_with_torchs_scaler(name: str) -> None:
    """Scale, skipped updates, bias correction and clipping of each member are those of torch.amp for it alone."""
    draw = torch.Generator().manual_seed(0)
    settings = [OptimizerSettings(name=name, lr=0.1, clip=2.0) for _ in range(3)]
    stacked, alone = stack(3, draw)
    ours = optim.build(settings, stacked, scaled=True)
    assert ours.loss_scale is not None
    ours.loss_scale.interval = 4
    each = [theirs(s, p) for s, p in zip(settings, alone, strict=True)]
    scalers = [torch.amp.GradScaler("cpu", growth_interval=4) for _ in alone]
    overflows = {1: [0, 5, 6], 2: list(range(3))}
    for step in range(12):
        fill(stacked, alone, draw)
        expected = torch.tensor([scaler.scale(torch.ones(())).item() for scaler in scalers], dtype=torch.float64)
        assert torch.equal(ours.scaled(torch.ones(3, dtype=torch.float64)), expected)
        for k, (own, scaler, optimizer) in enumerate(zip(alone, scalers, each, strict=True)):
            for i, p in enumerate(own):
                p.grad *= expected[k]
                if i == 1 and step in overflows.get(k, []):
                    p.grad.view(-1)[0] = math.inf
                stacked[i].grad.chunk(3)[k].copy_(p.grad)
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(own, 2.0)
            scaler.step(optimizer)
            scaler.update()
        ours.step(torch.full((3,), 0.1, dtype=torch.float64))
    assert ours.loss_scale.skipped.tolist() == [0, 3, 3]
    assert_same(stacked, alone)


def test_norms_are_not_decayed() -> None:
    norm = nn.Parameter(torch.ones(4))
    optimizer = optim.build([OptimizerSettings(name="adamw", weight_decay=0.5)], [norm])
    norm.grad = torch.zeros(4)
    optimizer.step(torch.tensor([0.1]))
    assert torch.equal(norm.data, torch.ones(4))


@pytest.mark.parametrize(("options", "tolerance"), [({"name": "adam"}, 0), ({"name": "lars", "clip": 1.0}, 1e-6)])
def test_channels_last_weights_are_updated_alike(options: dict[str, Any], tolerance: float) -> None:
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        draw = torch.Generator().manual_seed(0)
        weight = torch.randn(4, 3, 3, 3, generator=draw)
        p = nn.Parameter(weight.to(memory_format=memory_format))
        settings = [OptimizerSettings(**options, weight_decay=decay) for decay in (0.1, 0.2)]
        optimizer = optim.build(settings, [p])
        for _ in range(3):
            p.grad = torch.randn(4, 3, 3, 3, generator=draw).to(memory_format=memory_format)
            optimizer.step(torch.tensor([0.1, 0.2]))
        results.append(p.data.contiguous())
    torch.testing.assert_close(*results, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["adam", "sgd", "lars"])
@pytest.mark.parametrize("scaled", [False, True])
def test_state_continues(name: str, scaled: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    grads: list[Tensor] = [torch.randn(6, 5, generator=draw) for _ in range(6)]
    grads[1][0, 0] = math.nan if scaled else 0.0
    through, before, after = (nn.Parameter(torch.ones(6, 5)) for _ in range(3))
    settings = [OptimizerSettings(name=name, weight_decay=d, weight_decay_end=0.5) for d in (0.0, 0.1)]
    whole, first, second = (optim.build(settings, [p], 6, scaled=scaled) for p in (through, before, after))
    rate = torch.tensor([0.1, 0.2])
    for i, grad in enumerate(grads):
        through.grad = grad.clone()
        whole.step(rate)
        if i == 3:
            after.data.copy_(before.data)
            state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
            assert all(len(tensor) % 2 == 0 for tensor in state.values())
            second.load_state_dict(state, 3)
        part, optimizer = (before, first) if i < 3 else (after, second)
        part.grad = grad.clone()
        optimizer.step(rate)
    assert through.isfinite().all()
    assert torch.equal(after.data, through.data)


def test_learning_rates_by_hand() -> None:
    settings = [
        OptimizerSettings(lr=1.0, schedule="constant"),
        OptimizerSettings(lr=1.0, schedule="cosine"),
        OptimizerSettings(lr=1.0, schedule="cosine", warmup_epochs=1, warmup_lr=0.5),
        OptimizerSettings(lr=2.0, schedule="cosine", lr_end=0.5, scale_lr=True),
    ]
    table = optim.learning_rates(settings, epochs=3, steps_per_epoch=2, batch_size=128)
    assert table.shape == (6, 4)
    assert table[:, 0].tolist() == [1.0] * 6
    falling = [0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert table[:, 1].tolist() == pytest.approx(falling)
    assert table[:, 2].tolist() == pytest.approx(
        [0.5, 0.75, 1.0, *(0.5 * (1 + math.cos(math.pi * s / 4)) for s in (1, 2, 3))]
    )
    assert table[:, 3].tolist() == pytest.approx([0.5 + 0.5 * factor for factor in falling])
