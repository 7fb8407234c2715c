"""Training and evaluation on images of which none, or only some, have a label (-1: none)."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cplearn import training
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset, Split
from cplearn.errors import InputError
from cplearn.evaluate import protocol
from cplearn.training import TrialTraining
from sweeps.record import NEED_LABELS
from trials import run, trial

ASKED = {"view_images": 64, "gmm_components": [2], "probe": ["lbfgs", "sgd"]}


def without(split: Split) -> Split:
    return dataclasses.replace(split, labels=torch.full_like(split.labels, -1))


@pytest.fixture(scope="module")
def blind(digits: Dataset) -> Dataset:
    """The digits without their labels."""
    return dataclasses.replace(digits, train=without(digits.train), test=without(digits.test), classes=())


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> TrialTraining:
    return run(trial(evaluation=ASKED), digits)[0]


def free_of_labels(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith((*NEED_LABELS, "time/"))}


def test_without_labels_all_is_measured_that_needs_none(
    trained: TrialTraining, digits: Dataset, blind: Dataset
) -> None:
    labelled, outcome = (protocol.run(trained.model, dataset) for dataset in (digits, blind))
    assert not any(name.startswith(NEED_LABELS) for name in outcome.metrics)
    assert free_of_labels(outcome.metrics) == free_of_labels(labelled.metrics)
    assert {"select/view_information", "collapse/codes_used", "collapse/entropy_2"} <= outcome.metrics.keys()
    assert outcome.diagnostics == labelled.diagnostics
    assert len(outcome.arrays["queries"]) == len(outcome.arrays["neighbours"]) == 10
    assert set(outcome.arrays["labels"].tolist()) == {-1}


def test_training_is_the_same_with_and_without_labels(trained: TrialTraining, digits: Dataset, blind: Dataset) -> None:
    unseen, logs = run(trial(evaluation=ASKED), blind)
    _, seen = run(trial(evaluation=ASKED), digits)
    accuracies = [epoch.pop("train/knn_accuracy") for epoch in seen]
    assert min(accuracies) > 0.1, accuracies
    assert logs == seen
    weights = zip(unseen.model.parameters(), trained.model.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in weights)


def test_partly_labelled_images_all_train_and_the_labelled_ones_are_probed(digits: Dataset) -> None:
    few = digits.train.take(torch.arange(96))
    labels = torch.cat([few.labels, torch.full((64,), -1)])
    part = dataclasses.replace(digits, train=few, with_unlabelled=Split(digits.train.images, labels))
    whole, _ = run(trial(), part)
    assert whole.views.n_images == 160
    assert whole.steps_per_epoch == 5
    assert torch.equal(next(whole.model.parameters()), next(run(trial(), digits)[0].model.parameters()))
    only_labelled = dataclasses.replace(digits, train=few)
    ours, theirs = (protocol.run(whole.model, dataset).metrics for dataset in (part, only_labelled))
    assert {**ours, "time/evaluation_s": 0} == {**theirs, "time/evaluation_s": 0}
    assert training.training_split(TrialSettings.read({"method": "supervised"}), part) is few


def test_what_needs_labels_is_refused_by_name(blind: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"method\.name 'supervised' needs labels, and digits has none"):
        training.check(TrialSettings.read({"method": "supervised"}), blind)
    with pytest.raises(InputError, match=r"evaluation\.online_probe needs labels, and digits has none"):
        training.check(trial(evaluation={"online_probe": True}), blind)
    monkeypatch.setattr(protocol.data, "load", lambda *arguments: blind)
    with pytest.raises(InputError, match=r"evaluation\.transfer has digits, which has no labels"):
        protocol.load_transfer(trial(evaluation={"transfer": ["digits"]}), 8)
