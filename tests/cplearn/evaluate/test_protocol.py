"""The evaluation as a whole: what is measured, on which images, and what each setting changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from cplearn import training
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset
from cplearn.errors import InputError
from cplearn.evaluate import probe, protocol
from cplearn.evaluate.probe import linear_probe
from cplearn.evaluate.protocol import Outcome
from cplearn.model import Model
from trials import trial

EVERYTHING: dict[str, Any] = {
    "probe": ["lbfgs", "sgd", "adam"],
    "view_images": 64,
    "lidar": True,
    "gmm_components": [2, 10],
    "online_probe": True,
}
PIXELS = {"method": "untrained", "backbone": {"name": "pixels"}}


def evaluate(model: Model, dataset: Dataset, *transfer: Dataset, **evaluation: Any) -> Outcome:
    """The outcome of a model under other settings of the evaluation."""
    model.trial = trial(evaluation=evaluation)
    return protocol.run(model, dataset, transfer)


def without_time(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


@pytest.fixture(scope="module", autouse=True)
def _short_probes() -> Any:
    """Ten epochs in place of a hundred, for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "EPOCHS", 10)
        yield


@pytest.fixture(scope="module")
def logged() -> dict[str, float]:
    """The metrics of the last epoch of `model`."""
    return {}


@pytest.fixture(scope="module")
def model(digits: Dataset, logged: dict[str, float]) -> Model:
    trained = training.TrialTraining(trial(evaluation={"online_probe": True}), digits)
    while not trained.finished:
        logged.update(trained.train_epoch())
    return trained.model


@pytest.fixture(scope="module")
def plain(model: Model, digits: Dataset) -> dict[str, float]:
    """The metrics by default."""
    return evaluate(model, digits).metrics


@pytest.fixture(scope="module")
def everything(model: Model, digits: Dataset) -> dict[str, float]:
    return evaluate(model, digits, digits, **EVERYTHING).metrics


def test_what_is_asked_for_in_addition_changes_no_other_number(
    model: Model, digits: Dataset, everything: dict[str, float]
) -> None:
    same_views = without_time(evaluate(model, digits, view_images=64).metrics)
    assert {name: everything[name] for name in same_views} == same_views
    assert {
        "probe_sgd/accuracy",
        "select/lidar",
        "collapse/entropy_10",
        "paper/entropy_10",
    } <= everything.keys() - same_views.keys()
    less = evaluate(model, digits, probe=["sgd"], validation=0.0).metrics
    assert not any(name.startswith(("probe/", "validation/")) for name in less)
    assert less["probe_sgd/accuracy"] == everything["probe_sgd/accuracy"]


def test_augmented_probes_see_other_images_and_the_same_ones_twice(
    model: Model, digits: Dataset, everything: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [evaluate(model, digits, probe=["sgd"], probe_augment=True).metrics for _ in range(2)]
    assert without_time(results[0]) == without_time(results[1])
    assert results[0]["probe_sgd/train_accuracy"] != everything["probe_sgd/train_accuracy"]
    assert results[0]["knn/accuracy"] == everything["knn/accuracy"]


def test_every_metric_and_setting_is_documented(
    everything: dict[str, float], logged: dict[str, float], root: Path
) -> None:
    text = "".join((root / "docs" / f"{page}.md").read_text() for page in ("evaluation", "collapse", "choosing"))
    groups = {name.partition("/")[0] for name in everything}
    assert groups == {
        *("probe", "probe_sgd", "probe_adam", "knn", "validation", "kmeans", "codes", "collapse", "paper", "select"),
        *("transfer", "time"),
    }
    for name in [*everything, *(name for name in logged if "online" in name)]:
        group, _, leaf = name.rpartition("/")
        if group in ("codes", "kmeans"):
            assert f"`{leaf}`" in text, name
        elif group.startswith(("probe_", "transfer")):
            assert f"`{group.partition('/')[0]}/" in text, name
            assert f"/{leaf}`" in text, name
        elif "entropy" in leaf:
            assert f"`{group}/{leaf.replace('10', '<k>').replace('_2', '_<k>')}`" in text, name
        elif group != "time":
            assert f"`{name}`" in text, name
    for setting in ("view_images", "lidar", "gmm_components", "transfer", "online_probe", "validation", "kept_images"):
        assert f"evaluation.{setting}" in text


def test_selection_and_validation_never_see_the_test_split(
    model: Model, digits: Dataset, everything: dict[str, float]
) -> None:
    other_test = dataclasses.replace(
        digits.test, images=torch.flip(digits.test.images, (0, 2)), labels=digits.test.labels % 2
    )
    other = evaluate(model, dataclasses.replace(digits, test=other_test), lidar=True, view_images=64).metrics
    chosen_by = [name for name in everything if name.startswith(("select/", "validation/"))]
    assert len(chosen_by) == 7
    assert {name: everything[name] for name in chosen_by} == {name: other[name] for name in chosen_by}
    assert everything["probe/accuracy"] != other["probe/accuracy"]


def test_the_label_free_criteria_never_see_a_label(model: Model, digits: Dataset, everything: dict[str, float]) -> None:
    shuffled = dataclasses.replace(digits.train, labels=digits.train.labels.flip(0))
    other = evaluate(model, dataclasses.replace(digits, train=shuffled), lidar=True, view_images=64).metrics
    assert all(other[name] == value for name, value in everything.items() if name.startswith("select/"))
    assert everything["validation/accuracy"] > other["validation/accuracy"]


def test_validation_holds_out_a_part_of_the_training_images(digits: Dataset) -> None:
    settings = PIXELS | {"evaluation": {"validation": 0.25, "probe_c": 1e3, "kmeans_restarts": 1}}
    model = training.TrialTraining(TrialSettings.read(settings), digits).model
    # Labels of no meaning: what was fitted is remembered, what was held out is guessed.
    noise = torch.randint(0, 10, (160,), generator=torch.Generator().manual_seed(0))
    noisy = dataclasses.replace(digits, train=dataclasses.replace(digits.train, labels=noise))
    first = protocol.run(model, noisy).metrics
    assert first["probe/train_accuracy"] > 0.6
    assert first["validation/accuracy"] < 0.3
    assert 40 * first["validation/accuracy"] == pytest.approx(round(40 * first["validation/accuracy"]))
    assert protocol.run(model, digits).metrics["validation/accuracy"] > 0.7
    # Another seed holds out other images.
    model.trial = TrialSettings.read(settings | {"seed": 1})
    assert protocol.run(model, noisy).metrics["validation/knn_accuracy"] != first["validation/knn_accuracy"]


def test_two_images_are_too_few_for_a_validation_split(model: Model, digits: Dataset) -> None:
    two = torch.tensor([0, int((digits.train.labels != digits.train.labels[0]).nonzero()[0])])
    few = dataclasses.replace(digits.train, images=digits.train.images[two], labels=digits.train.labels[two])
    metrics = evaluate(model, dataclasses.replace(digits, train=few)).metrics
    assert "probe/accuracy" in metrics
    assert not any(name.startswith("validation/") for name in metrics)


def test_transfer_is_the_same_protocol_on_other_images(model: Model, digits: Dataset) -> None:
    (full,) = protocol.load_transfer(trial(evaluation={"transfer": ["digits"]}), 8)
    assert full.name == "digits"
    part = dataclasses.replace(full.train, images=full.train.images[200:500], labels=full.train.labels[200:500])
    other = dataclasses.replace(full, train=part)
    metrics = evaluate(model, digits, other).metrics
    train, test = (model.features(split.images) for split in (other.train, other.test))
    expected = dict(linear_probe(train, other.train.labels, test, other.test.labels))
    assert metrics["transfer/digits/accuracy"] == expected["probe/accuracy"]
    assert metrics["transfer/digits/top5"] == expected["probe/top5"]
    assert 0 < metrics["transfer/digits/knn_accuracy"] <= 1


def test_raw_pixels_are_a_model_too(digits: Dataset) -> None:
    model = training.TrialTraining(TrialSettings.read(PIXELS), digits).model
    outcome = protocol.run(model, digits)
    assert outcome.metrics["probe/accuracy"] > 0.7
    assert {name for name in outcome.metrics if name.startswith("select/")} == {"select/alpha_req"}
    images = {"queries", "neighbours", "shown", "thumbnails"}
    assert outcome.arrays.keys() == {"labels", "kept", "features", "features_scale"} | images


@pytest.mark.parametrize("probes", [["lbfgs"], ["sgd"], []])
def test_a_model_whose_features_are_not_finite_has_failed(digits: Dataset, probes: list[str]) -> None:
    trained = training.TrialTraining(trial(evaluation={"probe": probes}), digits)
    next(trained.model.backbone.parameters()).data[:4].fill_(float("nan"))
    outcome = protocol.run(trained.model, digits)
    assert "hold NaN or infinity" in (outcome.failure or "")
    assert outcome == Outcome(failure=outcome.failure)


def test_what_cannot_be_evaluated_is_refused_before_the_training(digits: Dataset) -> None:
    with pytest.raises(InputError, match=r"gmm_components 97 are more than the 96 test images of digits"):
        training.TrialTraining(trial(evaluation={"gmm_components": [97]}), digits)
    with pytest.raises(InputError, match="nowhere"):
        training.TrialTraining(trial(evaluation={"transfer": ["folder:/nowhere"]}), digits)
    assert training.operations(trial(evaluation={"transfer": ["folder:/nowhere"]}), digits) > 0
