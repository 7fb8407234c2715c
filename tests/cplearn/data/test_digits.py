"""The digits: sizes, scaling and a split that never changes."""

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from cplearn import data
from cplearn.data import Request
from cplearn.data.digits import source
from cplearn.errors import InputError


def test_sizes_and_types():
    digits = data.load("digits")
    assert (len(digits.train.images), len(digits.test.images)) == (1437, 360)
    assert digits.train.images.shape[1:] == (1, 8, 8)
    assert (digits.channels, digits.image_size, digits.n_classes) == (1, 8, 10)
    assert digits.classes == tuple("0123456789")
    assert str(digits.train.images.dtype) == "torch.uint8"
    assert str(digits.test.labels.dtype) == "torch.int64"


def test_the_two_splits_are_all_of_the_library_images_scaled_to_a_byte():
    digits, original = data.load("digits"), load_digits()

    def rows(images, labels):
        return sorted(map(tuple, np.column_stack([images.reshape(len(images), -1), labels]).astype(int)))

    images = np.concatenate([digits.train.images.numpy(), digits.test.images.numpy()])
    labels = np.concatenate([digits.train.labels.numpy(), digits.test.labels.numpy()])
    assert rows(images, labels) == rows(np.floor(original.images * 255 / 16 + 0.5), original.target)
    assert set(np.unique(images)) <= set(range(256))
    assert images.max() == 255


def test_both_splits_have_the_shares_of_the_classes():
    digits = data.load("digits")
    train, test = (np.bincount(split.labels, minlength=10) for split in (digits.train, digits.test))
    assert np.abs(test - (train + test) * 360 / 1797).max() <= 1


def test_the_split_is_pinned():
    # Other library versions, other machines: the same data set, or comparisons across them mean nothing.
    assert data.load("digits").fingerprint == "a1eb2c5d18b21aef0fbc549e1f57769a"


def test_the_split_is_that_of_the_library():
    original = load_digits()
    rows = np.arange(len(original.target))
    _, test = train_test_split(rows, test_size=360, stratify=original.target, random_state=0)
    drawn = data.load("digits").test
    assert drawn.labels.tolist() == original.target[np.sort(test)].tolist()
    assert (drawn.images[:, 0].numpy() == (original.images[np.sort(test)] * 255 + 8) // 16).all()


def test_a_library_without_its_file_is_said(monkeypatch, tmp_path):
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "sklearn" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "sklearn")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"elsewhere: scikit-learn's file .*digits.csv.gz cannot be read"):
        source("elsewhere", tmp_path).load(Request(tmp_path))


def test_own_size_only():
    assert data.load("digits", image_size=8).fingerprint == data.load("digits").fingerprint
    with pytest.raises(InputError, match="image_size 16: digits has images of 8x8"):
        data.load("digits", image_size=16)
