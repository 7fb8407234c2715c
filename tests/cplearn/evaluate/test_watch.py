"""Diagnostics while a trial trains: they are those of the evaluation, and leave the training as it would have been."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cplearn import methods
from cplearn.data import Dataset
from cplearn.data.dataset import evenly_spaced
from cplearn.evaluate.collapse import collapse
from cplearn.evaluate.features import features
from cplearn.evaluate.probe import knn
from cplearn.evaluate.protocol import WATCHED, watch
from cplearn.training import TrialTraining
from trials import assert_same_state, run, trial

LOGGED = (*WATCHED, "knn_accuracy", "view_information")
TRAINED = [name for name in methods.names() if methods.get(name).Settings.trains]


def test_they_are_those_of_the_evaluation_on_the_same_images(digits: Dataset) -> None:
    trained, logs = run(trial(), digits)
    model, images = trained.model, digits.train.images[torch.arange(128) * len(digits.train.images) // 128]
    embeddings = model.embeddings(features(model, images))
    assert embeddings is not None
    expected = dict(collapse(embeddings, model.codes(embeddings), 32))
    assert {name: logs[-1][f"train/{name}"] for name in WATCHED} == {
        name: expected[f"collapse/{name}"] for name in WATCHED
    }
    measured = dict(watch(model, digits.train, 128))
    assert measured == {name: logs[-1][f"train/{name}"] for name in LOGGED}
    assert -0.1 < measured["view_information"] < 3.5
    assert dict(watch(model, digits.train, 200)) != measured


def test_labels_count_for_the_accuracy_alone(digits: Dataset) -> None:
    model = TrialTraining(trial(), digits).model
    unknown = dataclasses.replace(digits.train, labels=torch.full_like(digits.train.labels, -1))
    measured = dict(watch(model, digits.train, 64))
    accuracy = measured.pop("knn_accuracy")
    assert dict(watch(model, unknown, 64)) == measured
    rows = evenly_spaced(len(digits.train.images), 64)
    halves = [
        (features(model, digits.train.images[half]), digits.train.labels[half]) for half in (rows[::2], rows[1::2])
    ]
    either = [dict(knn(*voters, *voted))["knn/accuracy"] for voters, voted in (halves, halves[::-1])]
    assert accuracy == pytest.approx(sum(either) / 2)
    assert 0.2 < accuracy < 1.0


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_that_is_watched_is_the_same(digits: Dataset, name: str) -> None:
    """Weights, statistics of BatchNorm, optimiser and the other logged numbers, bit for bit, and the global draws."""
    small = {"method": {"name": name}, "train_images": 96, "epochs": 2}
    few = dataclasses.replace(
        digits,
        train=dataclasses.replace(digits.train, images=digits.train.images[:96], labels=digits.train.labels[:96]),
    )
    before = torch.get_rng_state()
    watched, logs = run(trial(small, evaluation={"watch_images": 40}), few)
    assert torch.equal(torch.get_rng_state(), before)
    alone, plain = run(trial(small, evaluation={"watch_images": 0}), few)
    named = {f"train/{name}" for name in LOGGED}
    assert all(len(named & epoch.keys()) >= 5 for epoch in logs)
    assert [{key: value for key, value in epoch.items() if key not in named} for epoch in logs] == plain
    assert_same_state(watched.state_dict(), alone.state_dict())


def test_the_mode_of_every_layer_stays(digits: Dataset) -> None:
    model = TrialTraining(trial(), digits).model
    model.train()
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    dict(watch(model, digits.train, 64))
    assert all(module.training for module in model.modules())
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def test_they_are_measured_as_often_as_asked(digits: Dataset) -> None:
    _, logs = run(trial(epochs=5, evaluation={"watch_every": 2, "watch_images": 40}), digits)
    assert ["train/codes_used" in epoch for epoch in logs] == [False, True, False, True, False]


def test_a_model_thrown_off_by_the_last_update_is_left_to_the_next_loss(digits: Dataset) -> None:
    model = TrialTraining(trial(), digits).model
    next(model.backbone.parameters()).data.fill_(float("nan"))
    assert dict(watch(model, digits.train, 40)) == {}


def test_without_an_embedding_there_is_nothing(digits: Dataset) -> None:
    model = TrialTraining(trial(method={"name": "untrained"}), digits).model
    assert dict(watch(model, digits.train, 40)) == {}
