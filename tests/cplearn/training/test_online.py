"""The online probe: it learns, leaves the trial's other numbers alone, and steps as torch does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F

from cplearn import streams
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset
from cplearn.model import Model
from cplearn.training.loop import OnlineProbe
from trials import assert_same_state, run, trial


def probed(**changes: Any) -> TrialSettings:
    return trial(**{"epochs": 3, **changes, "evaluation": {"online_probe": True, **changes.pop("evaluation", {})}})


def test_it_learns_and_changes_no_other_number(digits: Dataset) -> None:
    without, plain = run(trial(epochs=5), digits)
    beside, logs = run(probed(epochs=5), digits)
    assert [{k: v for k, v in epoch.items() if "online" not in k} for epoch in logs] == plain
    state, expected = beside.state_dict(), without.state_dict()
    state.pop("online")
    assert_same_state(state, expected)
    assert logs[-1]["train/online_accuracy"] > logs[0]["train/online_accuracy"] + 0.1
    assert logs[-1]["train/online_loss"] < logs[0]["train/online_loss"]


def model_of(settings: TrialSettings, dtype: torch.dtype = torch.float32) -> Model:
    """What the probe asks of a model: five features, three classes."""
    backbone, images = SimpleNamespace(features=5), {"classes": ["a", "b", "c"]}
    return cast(Model, SimpleNamespace(trial=settings, backbone=backbone, images=images, device="cpu", dtype=dtype))


def test_a_step_is_that_of_torch() -> None:
    """Adam on the mean cross-entropy of both views; images without a label count for nothing."""
    settings = probed(optimizer={"schedule": "constant"}, precision="float64")
    probe = OnlineProbe(model_of(settings, torch.float64), 10)
    layer = torch.nn.Linear(5, 3).double()
    layer.load_state_dict(probe.linear.state_dict())
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    generator = streams.generator(0, "test")
    labels = torch.tensor([0, 1, 2, -1, 1, -1])
    for _ in range(5):
        features = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        logits = torch.cat([layer(view[labels >= 0]) for view in features])
        truth = labels[labels >= 0].repeat(2)
        loss = F.cross_entropy(logits, truth)
        loss.backward()
        optimizer.step()
        terms = probe.step(features, labels)
        assert terms["online_loss"].item() == pytest.approx(loss.item(), rel=1e-10)
        assert terms["online_accuracy"].item() == pytest.approx((logits.argmax(1) == truth).double().mean().item())
    torch.testing.assert_close(probe.linear.weight, layer.weight, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(probe.linear.bias, layer.bias, rtol=1e-8, atol=1e-10)


def test_a_batch_without_labels_is_no_accident() -> None:
    probe = OnlineProbe(model_of(probed()), 10)
    terms = probe.step(torch.randn(2, 4, 5, generator=streams.generator(0, "test")), torch.full((4,), -1))
    assert terms["online_loss"].item() == terms["online_accuracy"].item() == 0
