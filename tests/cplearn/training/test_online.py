"""The online probe: it learns, leaves the trial's other numbers alone, and resumes exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cplearn import stacked, streams, training
from cplearn.data import Dataset
from cplearn.training.online import OnlineProbe
from trials import run, trial

Logs = list[list[dict[str, float]]]


def probed(**changes: Any) -> training.Trial:
    evaluation = {"online_probe": True, **changes.pop("evaluation", {})}
    return trial(**{"epochs": 4, **changes, "evaluation": evaluation})


def others(logs: Logs) -> Logs:
    return [[{k: v for k, v in epoch.items() if "online" not in k} for epoch in log] for log in logs]


def test_it_changes_no_other_number(digits: Dataset) -> None:
    without, plain = run([trial(epochs=4)], digits)
    beside, logs = run([probed()], digits)
    assert others(logs) == plain
    own, other = beside.member_state(0), without.member_state(0)
    assert own.keys() - other.keys() == {"online"}
    for part in ("model", "optimizer"):
        assert all(torch.equal(own[part][name], other[part][name]) for name in other[part])
    (with_probe,), (reference,) = beside.evaluate(), without.evaluate()
    assert {k: v for k, v in with_probe.metrics.items() if "time" not in k} == {
        k: v for k, v in reference.metrics.items() if "time" not in k
    }


def test_it_learns(digits: Dataset) -> None:
    _, (log,) = run([probed(epochs=8)], digits)
    assert log[-1]["train/online_accuracy"] > log[0]["train/online_accuracy"] + 0.2
    assert log[-1]["train/online_loss"] < log[0]["train/online_loss"]


def test_a_member_is_the_trial_alone_and_has_its_own_rate(digits: Dataset) -> None:
    shared = {"precision": "float64", "epochs": 10}
    trials = [
        probed(**shared),
        probed(**shared, seed=7, optimizer={"warmup_epochs": 1}),
        probed(**shared, evaluation={"online_lr": 0.01}),
    ]
    _, logs = run(trials, digits)
    for one, log in zip(trials, logs, strict=True):
        _, (own,) = run([one], digits)
        for together, alone in zip(log, own, strict=True):
            assert together == pytest.approx(alone, rel=1e-8)
    assert logs[0][-1]["train/online_loss"] != logs[2][-1]["train/online_loss"]
    assert logs[0][-1]["train/loss"] == logs[2][-1]["train/loss"]


def test_a_resumed_member_goes_on_exactly(digits: Dataset) -> None:
    through, logs = run([probed(), probed(seed=1)], digits)
    first = training.Pack([probed(), probed(seed=1)], digits)
    first.train_epoch()
    again = training.Pack([probed(seed=1), probed()], digits)
    again.load_member_states([first.member_state(1), first.member_state(0)])
    for epoch in range(1, 4):
        metrics = dict(again.train_epoch())[0]
        for name in ("train/online_loss", "train/online_accuracy"):
            assert metrics[name] == logs[1][epoch][name]
    state, expected = again.member_state(0)["online"], through.member_state(1)["online"]
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)


def test_a_step_is_that_of_torch() -> None:
    """Adam on the mean cross-entropy of both views; images without a label count for nothing."""
    settings = probed(optimizer={"schedule": "constant"}, precision="float64")
    probe = OnlineProbe([settings], 5, 3, 10).start(torch.device("cpu"), torch.float64)
    layer = torch.nn.Linear(5, 3).double()
    layer.load_state_dict({"weight": probe.linear.weight[0].detach().T, "bias": torch.zeros(3)})
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    generator = streams.generator(0, "test")
    for _ in range(5):
        features = torch.randn(1, 2, 6, 5, generator=generator, dtype=torch.float64)
        labels = torch.tensor([[0, 1, 2, -1, 1, -1]])
        optimizer.zero_grad()
        known = labels[0] >= 0
        logits = torch.cat([layer(view[known]) for view in features[0]])
        truth = labels[0][known].repeat(2)
        loss = F.cross_entropy(logits, truth)
        loss.backward()
        optimizer.step()
        terms = probe.step(features, labels)
        assert terms["online_loss"].item() == pytest.approx(loss.item(), rel=1e-10)
        assert terms["online_accuracy"].item() == pytest.approx((logits.argmax(1) == truth).double().mean().item())
    torch.testing.assert_close(probe.linear.weight[0].T, layer.weight, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(stacked.members_of(probe.linear.bias, 1)[0], layer.bias, rtol=1e-8, atol=1e-10)


def test_a_batch_without_labels_is_no_accident() -> None:
    probe = OnlineProbe([probed()], 5, 3, 10).start(torch.device("cpu"), torch.float32)
    terms = probe.step(torch.randn(1, 2, 4, 5, generator=streams.generator(0, "test")), torch.full((1, 4), -1))
    assert terms["online_loss"].item() == terms["online_accuracy"].item() == 0
