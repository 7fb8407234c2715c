"""Parts of a data set."""

from __future__ import annotations

import pytest
import torch

from cplearn import data
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset, Split
from cplearn.data.dataset import limit
from cplearn.errors import InputError


def test_a_part_has_every_class_in_proportion_and_is_the_same_every_time() -> None:
    whole, part = data.load("digits"), data.load("digits", train_images=100, test_images=20)
    assert (len(part.train.images), len(part.test.images)) == (100, 20)
    assert set(part.train.labels.bincount().tolist()) <= {9, 10, 11}  # as uneven as the digits are
    assert set(part.test.labels.bincount().tolist()) <= {1, 2, 3}
    assert part.fingerprint != whole.fingerprint
    assert part.fingerprint == data.load("digits", train_images=100, test_images=20).fingerprint
    assert part.fingerprint != data.load("digits", train_images=100).fingerprint
    rows = [int((whole.train.images == image).flatten(1).all(1).nonzero()[0]) for image in part.train.images]
    assert rows == sorted(rows)
    assert torch.equal(whole.train.labels[rows], part.train.labels)


def test_unlabelled_images_shrink_as_the_training_images_do() -> None:
    def split(labels: list[int]) -> Split:
        return Split(torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1), torch.tensor(labels))

    labelled = [0, 1] * 5
    dataset = Dataset("d", split(labelled), split(labelled), ("a", "b"), "f", 0, 1, "s", split(labelled + [-1] * 30))
    part = limit(dataset, 4, None)
    assert part.train.images.flatten().tolist() == [0, 1, 4, 5]
    assert part.pretrain.images.flatten().tolist()[:4] == [0, 1, 4, 5]
    assert part.pretrain.images.flatten().tolist()[4:] == [10 + i * 30 // 12 for i in range(12)]
    assert part.pretrain.labels.tolist() == [0, 1, 0, 1] + [-1] * 12
    assert len(part.test.labels) == 10


@pytest.mark.parametrize(("count", "key"), [(9, "train_images"), (1438, "train_images"), (361, "test_images")])
def test_an_impossible_part_is_refused(count: int, key: str) -> None:
    with pytest.raises(InputError, match=f"{key} {count}: digits has .* of 10 classes"):
        data.load("digits", **{key: count})


def test_a_trial_asks_for_its_part() -> None:
    trial = TrialSettings.read({"train_images": 64, "test_images": 30})
    assert len(data.load(**trial.data_request()).train.images) == 64
    assert trial.identity()["train_images"] == 64
