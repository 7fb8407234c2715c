"""Arrays of images in one .npz file, as MedMNIST writes them: `train_images`, `train_labels`, ...

Splits are train, val and test, of which some may be missing. Images are (n, H, W) or (n, H, W, 3) uint8; labels, if
there are any, (n,) or (n, 1), numbers or words. Arrays are read image by image,
so they need not fit into memory.
"""

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from cplearn.data.dataset import Request
from cplearn.data.encoded import Contents, EncodedSource, Stamp, stamp, unreadable, within
from cplearn.data.image_files import Encoded, in_memory
from cplearn.data.splits import Item
from cplearn.errors import InputError

SPLITS = ("train", "val", "test")


class Npz(EncodedSource):
    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name, str(path), "npz")
        self.path = path
        self.parts: list[tuple[str, int]] = []

    def stamps(self, request: Request) -> list[Stamp]:
        return [stamp(self.path, self.path.parent)]

    def contents(self, request: Request, stamps: list[Stamp]) -> Contents:
        """Raises InputError if the file is damaged, has no such arrays, or more than one label an image."""
        items: list[Item] = []
        self.parts = []
        try:
            with np.load(self.path) as arrays:
                for split in SPLITS:
                    if f"{split}_images" in arrays:
                        with zipfile.ZipFile(self.path) as archive, self._open(archive, split) as (_, shape):
                            self.parts.append((split, shape[0]))
                            labels = arrays.get(f"{split}_labels")
                            flat = [None] * shape[0] if labels is None else self._flat(labels, split, shape[0])
                            items += [Item(f"{split}_images[{i}]", label, split) for i, label in enumerate(flat)]
        except InputError:
            raise
        except Exception as error:  # damaged archives raise almost anything
            raise unreadable(self.path, "an .npz file", error) from error
        if not items:
            names = ", ".join(f"{split}_images" for split in SPLITS)
            raise InputError(f"{self.path}: none of the arrays {names} is in it")
        return Contents(items, None, {})

    def _flat(self, labels: np.ndarray, split: str, n: int) -> list[Any]:
        if labels.ndim == 2 and labels.shape[1] > 1:
            raise InputError(f"{self.path}: {split}_labels has {labels.shape[1]} labels an image; only one can be used")
        if labels.size != n or labels.dtype.kind not in "iubU":
            raise InputError(
                f"{self.path}: {split}_labels is an array {labels.shape} of {labels.dtype}; expected are {n} whole "
                "numbers or words"
            )
        return [int(label) if labels.dtype.kind != "U" else str(label) for label in labels.reshape(-1)]

    @contextmanager
    def _open(self, archive: zipfile.ZipFile, split: str) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
        """The bytes of a split's pixels, and the shape (n, H, W) or (n, H, W, 3) of the array."""
        with archive.open(f"{split}_images.npy") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(file)
            if dtype != np.uint8 or fortran or len(shape) not in (3, 4) or shape[3:] not in ((), (1,), (3,)):
                raise InputError(
                    f"{self.path}: {split}_images is an array {shape} of {dtype}{' in Fortran order' * fortran}; "
                    "expected is (n, H, W) or (n, H, W, 3) of uint8"
                )
            yield file, shape

    def read(self, rows: Sequence[int]) -> Iterator[Encoded]:
        with zipfile.ZipFile(self.path) as archive:
            first = 0
            for split, n in self.parts:
                with self._open(archive, split) as (file, shape):
                    start, size = file.tell(), math.prod(shape[1:])
                    # A portable pixmap, which holds nothing but pixels.
                    header = b"P%d %d %d 255\n" % (6 if shape[3:] == (3,) else 5, shape[2], shape[1])
                    for i in within(rows, first, n):
                        file.seek(start + i * size)
                        yield in_memory(f"{self.path}: {split}_images[{i}]", header + file.read(size))
                first += n


def source(name: str, root: Path) -> Npz:
    return Npz(name, Path(name.partition(":")[2]))
