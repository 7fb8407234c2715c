"""scikit-learn's handwritten digits: 1,797 greyscale images of 8x8 pixels that come with the library."""

import base64
from functools import cache as remember
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from cplearn.data import cache
from cplearn.data.dataset import Dataset, Request, Source, check_size
from cplearn.errors import InputError

SIZE = 8
IMAGES, CLASSES = 1797, 10
TEST = base64.b64decode(
    "AAAEiDUkEEAABkEAk0IFABoACAEAJAAoBiwSABAAlAoAkBkSBCD4oAKBEKAACAqIIEQVJElCQKAKAAAAQATYAACBgCAASAXEABBA"
    "CKAQAAVASAAwEAACDsQJAAIkhACDqAE8IKaYCgAAAAsIQAgEoBhIAgJAQcEAgARARoQ3aoECFgBEgABAQqCkGApQAIQLhWHGCBCA"
    "CABMgMAgBAaOAAEIggCBADgIA8AIGQAAEA4BAIQQoCEAMygpBMBEwIBoDgECgwCCAIgipkAsJAQhCKhggJCBoAwCggJCEgE4pBUA"
)
"""A bit for each image, set for those of the test split: 360, drawn by scikit-learn's `train_test_split` stratified by
class, with seed 0."""


class Digits(Source):
    """The digits, 1,437 to train and 360 to test; the library has no split of its own, so this one is ours.

    Pixels 0..16 become v * 255 / 16, rounded to the nearest integer (127.5, the only half, upwards).
    """

    def load(self, request: Request) -> Dataset:
        """The digits; raises InputError if another size than 8 is asked for, or the library's file cannot be read."""
        check_size(self.name, request.image_size, SIZE)
        return _read(self.name, self.place)


def source(name: str, root: Path) -> Digits:
    return Digits(name, "scikit-learn, load_digits")


@remember
def _read(name: str, place: str) -> Dataset:
    library = find_spec("sklearn")  # To import it takes two seconds.
    path = Path(library.origin or "" if library else "").with_name("datasets") / "data" / "digits.csv.gz"
    try:
        table = np.loadtxt(path, delimiter=",").astype(np.int64)
        images, labels = table[:, :-1].reshape(IMAGES, 1, SIZE, SIZE), table[:, -1]
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: scikit-learn's file {path} cannot be read ({error}); install it anew") from None
    images = ((images * 255 + 8) // 16).astype(np.uint8)
    is_test = np.unpackbits(np.frombuffer(TEST, np.uint8), count=IMAGES).astype(bool)
    train, test = (cache.Arrays(images[rows], labels[rows]) for rows in (~is_test, is_test))
    return cache.assemble(name, place, train, test, cache.describe(train, test, list(map(str, range(CLASSES))), place))
