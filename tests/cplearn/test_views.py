"""Batches of a training: their labels, their draws, and what does not depend on how they are made."""

from __future__ import annotations

import torch

from cplearn.data import Dataset
from cplearn.training import TrialTraining
from trials import trial


def test_local_crops_leave_the_draws_of_the_two_views_alone(digits: Dataset) -> None:
    (plain, labels), (cropped, same_labels) = (
        next(TrialTraining(trial(method={"name": "swav"}, augment=local), digits).views.epoch(0))
        for local in ({}, {"local_views": 3, "local_size": 5})
    )
    assert [tuple(views.shape) for views in cropped] == [(64, 1, 8, 8), (96, 1, 5, 5)]
    assert torch.equal(plain[0], cropped[0])
    assert torch.equal(labels, same_labels)


def test_labels_belong_to_the_images(digits: Dataset) -> None:
    label = {image.numpy().tobytes(): y for image, y in zip(digits.train.images, digits.train.labels, strict=True)}
    for views, labels in TrialTraining(trial(augment={"recipe": "none"}), digits).views.epoch(1):
        images = (views[0][:32] * 255).round().to(torch.uint8)
        assert [label[image.numpy().tobytes()] for image in images] == labels.tolist()


def test_trials_of_one_seed_see_the_same_views(digits: Dataset) -> None:
    one, other, another = (
        next(TrialTraining(settings, digits).views.epoch(3))[0][0]
        for settings in (trial(), trial(method={"name": "vicreg"}, optimizer={"lr": 1.0}), trial(seed=1))
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, another)


def test_views_made_ahead_are_those_made_one_batch_at_a_time(digits: Dataset) -> None:
    views = TrialTraining(trial(), digits).views
    assert views.batches_ahead > 1
    ahead = list(views.epoch(1))
    views.batches_ahead = 1
    single = list(views.epoch(1))
    assert len(ahead) == len(single) == 5
    for (some, labels), (others, other_labels) in zip(ahead, single, strict=True):
        assert torch.equal(some[0], others[0])
        assert torch.equal(labels, other_labels)
