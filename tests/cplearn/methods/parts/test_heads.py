"""Projectors, cosine classifiers and frozen weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cplearn import optim, stacked
from cplearn.config.groups import OptimizerSettings
from cplearn.methods.parts import heads
from support import normal

K = 2


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(K)]


@pytest.mark.parametrize("norm", [True, False])
def test_a_projector_is_torchs_own_layers_for_each_member(norm: bool) -> None:
    projector = heads.MLP(K, [5, 7, 6, 4], norm=norm)
    stacked.initialise(projector, generators())
    for parameter in projector.double().parameters():
        parameter.data.add_(0.1 * normal(*parameter.shape))
    x = normal(K, 8, 5)
    got = projector(x)
    for k in range(K):
        layers: list[nn.Module] = []
        for layer in [*projector.hidden, projector.last]:
            if isinstance(layer, stacked.Linear):
                own = nn.Linear(*layer.weight.shape[1:], bias=not norm).double()
                own.weight.data = layer.weight[k].T
                if layer.bias is not None:
                    own.bias.data = stacked.members_of(layer.bias, K)[k]
            elif isinstance(layer, stacked.BatchNorm1d):
                own = nn.BatchNorm1d(layer.weight.numel() // K).double()
                own.weight.data, own.bias.data = (stacked.members_of(p, K)[k] for p in (layer.weight, layer.bias))
            else:
                own = layer
            layers.append(own)
        torch.testing.assert_close(got[k], nn.Sequential(*layers)(x[k]))


def test_weight_decay_spares_a_bias() -> None:
    linear = stacked.Linear(1, 3, 4, bias=True)
    stacked.initialise(linear, generators()[:1])
    linear.bias.data.fill_(1)
    before = linear.weight.detach().clone()
    adam = optim.build([OptimizerSettings(name="adamw", weight_decay=0.5)], linear.parameters())
    linear.weight.grad, linear.bias.grad = torch.zeros_like(linear.weight), torch.zeros_like(linear.bias)
    adam.step(torch.tensor([0.1]))
    assert torch.equal(linear.bias, torch.ones(4))
    torch.testing.assert_close(linear.weight.data, 0.95 * before)


def test_a_cosine_classifier_depends_on_directions_only() -> None:
    classifier = heads.Cosine(K, 5, 9)
    stacked.initialise(classifier, generators())
    x = torch.nn.functional.normalize(normal(K, 6, 5).float(), dim=-1)
    before = classifier(x)
    expected = torch.nn.functional.cosine_similarity(x[:, :, None], classifier.weight.transpose(1, 2)[:, None], dim=-1)
    torch.testing.assert_close(before, expected)
    classifier.weight.data.mul_(7)
    torch.testing.assert_close(classifier(x), before)


def test_views_are_normalised_one_at_a_time() -> None:
    norm = stacked.BatchNorm1d(K, 3).double()
    x = normal(K, 2, 10, 3)
    x[:, 1] += 5
    torch.testing.assert_close(heads.each_view(norm, x).mean(2), torch.zeros(K, 2, 3, dtype=torch.float64))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_frozen_weight_does_not_move_though_the_optimiser_would_move_it(name: str) -> None:
    linear = stacked.Linear(K, 3, 4)
    stacked.initialise(linear, generators())
    adam = optim.build([OptimizerSettings(name=name, weight_decay=0.5)] * K, linear.parameters())
    moved = []
    for frozen in (False, True, True):
        before = linear.weight.detach().clone()
        linear(torch.ones(K, 2, 3)).sum().backward()
        kept = heads.Freeze(linear.weight) if frozen else None
        adam.step(torch.full((K,), 0.1))
        moved.append(not torch.equal(linear.weight, before))
        if kept:
            kept.undo()
            assert torch.equal(linear.weight, before)
    assert moved == [True, True, True]
