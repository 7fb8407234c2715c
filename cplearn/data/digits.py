"""scikit-learn's handwritten digits: 1,797 greyscale images of 8x8 pixels that come with the library."""

from __future__ import annotations

from functools import cache as remember
from pathlib import Path

import numpy as np

from cplearn.data import cache
from cplearn.data.dataset import Dataset, check_size
from cplearn.data.source import Request, Source

SIZE = 8
TEST_IMAGES = 360
SPLIT_SEED = 0


class Digits(Source):
    """The digits, 1,437 to train and 360 to test; the library has no split of its own, so this one is ours.

    Stratified by class, with a fixed seed. Pixels 0..16 become v * 255 / 16, rounded to the nearest integer (127.5, the
    only half, upwards).
    """

    def load(self, request: Request) -> Dataset:
        """The digits; raises InputError if another size than 8 is asked for."""
        check_size(self.name, request.image_size, SIZE)
        return _read(self.name, self.place)


def source(name: str, root: Path) -> Digits:
    return Digits(name, "scikit-learn, load_digits")


@remember
def _read(name: str, place: str) -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = ((digits.images.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)[:, None]
    labels = digits.target.astype(np.int64)
    classes = [str(name) for name in digits.target_names]
    rows = train_test_split(np.arange(len(labels)), test_size=TEST_IMAGES, stratify=labels, random_state=SPLIT_SEED)
    train, test = (cache.Arrays(images[np.sort(r)], labels[np.sort(r)]) for r in rows)
    return cache.assemble(name, place, train, test, cache.describe(train, test, classes, place))
