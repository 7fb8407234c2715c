"""Optimisers: which parameters are decayed and adapted, LARS against its equations, frozen layers; and schedules."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cplearn.config.groups import OptimizerSettings
from cplearn.training import optimisers

SHAPES = [(3, 4), (2, 3, 3, 3), (5,)]


def parameters(draw: torch.Generator) -> list[nn.Parameter]:
    """A weight, a convolution and a norm in float64."""
    return [nn.Parameter(torch.randn(shape, generator=draw, dtype=torch.float64)) for shape in SHAPES]


def lars(weights: list[np.ndarray], gradients: list[list[np.ndarray]], s: OptimizerSettings) -> list[np.ndarray]:
    """LARS after You et al. (2017), or clipped; decay and layer-wise rate spare norms unless they are asked for."""
    results = []
    for i, w in enumerate(weights):
        w, velocity = w.copy(), np.zeros_like(w)
        for step in gradients:
            g = step[i]
            if w.ndim > 1 or s.decay_norms:
                size, slope = np.sqrt((w**2).sum()), np.sqrt((g**2).sum())
                rate = s.eta * size / (slope + s.weight_decay * size + 1e-8)
                g = (g + s.weight_decay * w) * (min(rate / s.lr, 1) if s.trust_clip else rate)
            velocity = s.momentum * velocity + g
            w = w - s.lr * velocity
        results.append(w)
    return results


@pytest.mark.parametrize("options", [{}, {"trust_clip": False, "decay_norms": True}, {"decay_norms": True, "lr": 1e-3}])
def test_lars_is_that_of_its_equations(options: dict[str, Any]) -> None:
    draw = torch.Generator().manual_seed(0)
    settings = OptimizerSettings(**{"name": "lars", "lr": 0.3, "weight_decay": 0.1, "eta": 0.05, **options})
    weights = parameters(draw)
    start = [p.detach().numpy().copy() for p in weights]
    optimizer = optimisers.build(settings, weights)
    optimisers.Schedule(optimizer, settings.model_copy(update={"schedule": "constant"}), 1, 4)
    gradients = [[torch.randn(shape, generator=draw, dtype=torch.float64) for shape in SHAPES] for _ in range(4)]
    for step in gradients:
        for p, gradient in zip(weights, step, strict=True):
            p.grad = gradient.clone()
        optimizer.step()
    expected = lars(start, [[g.numpy() for g in step] for step in gradients], settings)
    for p, result in zip(weights, expected, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), result, rtol=1e-10)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lars"])
@pytest.mark.parametrize("decay_norms", [False, True])
def test_norms_are_decayed_where_that_is_asked_for(name: str, decay_norms: bool) -> None:
    settings = OptimizerSettings(name=name, weight_decay=0.5, decay_norms=decay_norms, lr=0.1)
    norm = nn.Parameter(torch.ones(4))
    optimizer = optimisers.build(settings, [norm])
    schedule = optimisers.Schedule(optimizer, settings, 1, 2)
    for _ in range(2):
        norm.grad = torch.zeros(4)
        optimizer.step()
        schedule.step()
    # LARS leaves a layer without a gradient to plain decay.
    assert torch.equal(norm.detach(), torch.ones(4)) == (not decay_norms)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "lars"])
def test_a_layer_without_a_gradient_starts_later_as_if_it_were_new(name: str) -> None:
    draw = torch.Generator().manual_seed(0)
    settings = OptimizerSettings(name=name, weight_decay=0.1, schedule="constant")

    def gradient() -> Tensor:
        return torch.randn(3, 2, generator=draw)

    early, late, fresh = (nn.Parameter(torch.ones(3, 2)) for _ in range(3))
    both, alone = optimisers.build(settings, [early, late]), optimisers.build(settings, [fresh])
    schedules = [optimisers.Schedule(optimizer, settings, 1, 6) for optimizer in (both, alone)]
    for step in range(6):
        early.grad, late.grad = gradient(), None
        if step < 3:
            assert torch.equal(late.detach(), torch.ones(3, 2))
        else:
            late.grad = gradient()
            fresh.grad = late.grad.clone()
            alone.step()
            schedules[1].step()
        both.step()
        schedules[0].step()
    assert torch.equal(late, fresh)
    assert not torch.equal(late, early)


def test_frozen_parameters_are_left_out() -> None:
    frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    optimizer = optimisers.build(OptimizerSettings(), [frozen, nn.Parameter(torch.ones(2, 2))])
    assert [len(group["params"]) for group in optimizer.param_groups] == [1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, [1.0] * 6),
        ({}, [0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]),
        (
            {"warmup_epochs": 1, "warmup_lr": 0.5},
            [0.5, 0.75, *(0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4))],
        ),
        (
            {"lr": 2.0, "lr_end": 0.5, "scale_lr": True},
            [0.5 + 0.25 * (1 + math.cos(math.pi * step / 6)) for step in range(6)],
        ),
    ],
)
def test_learning_rates_by_hand(options: dict[str, Any], expected: list[float]) -> None:
    settings = OptimizerSettings(**{"lr": 1.0, **options})
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = optimisers.build(settings, [weight])
    schedule = optimisers.Schedule(optimizer, settings, epochs=3, steps_per_epoch=2, batch_size=128)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(expected)
    schedule.restore(optimizer.state_dict(), 4)
    assert optimizer.param_groups[0]["lr"] == rates[4]


def test_weight_decay_follows_its_cosine() -> None:
    settings = OptimizerSettings(weight_decay=0.04, weight_decay_end=0.4)
    optimizer = optimisers.build(settings, [nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))])
    schedule = optimisers.Schedule(optimizer, settings, 1, 8)
    for step in range(8):
        decays = [group["weight_decay"] for group in optimizer.param_groups]
        assert decays == pytest.approx([0.4 - 0.36 * 0.5 * (1 + math.cos(math.pi * step / 8)), 0.0])
        optimizer.step()
        schedule.step()


def test_a_training_imports_neither_the_compiler_nor_scikit_learn() -> None:
    """Together they would take most of four seconds of every worker's start."""
    code = """if True:
        import sys
        from cplearn import data
        from cplearn.config.trial import TrialSettings
        from cplearn.training import TrialTraining
        small = {"train_images": 20, "test_images": 10, "batch_size": 10, "backbone": {"width": 2}}
        trial = TrialSettings.read({"epochs": 2, **small})
        training = TrialTraining(trial, data.load(**trial.data_request()))
        first = training.train_epoch()
        training.load_state_dict(training.state_dict())
        second = training.train_epoch()
        assert second["train/loss"] != first["train/loss"]
        assert "train/view_information" in second
        print([name for name in ("torch._dynamo", "sklearn", "scipy", "pandas", "timm") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
