"""A source of images: what every data set is before it is loaded. Needs no torch.

`cplearn.data.source` finds the source of a name by the line that `cplearn.data.catalogue` has for it. Sources of files
that Pillow decodes share `cplearn.data.encoded`; others give arrays to `cplearn.data.cache`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cplearn.data.dataset import Dataset


@dataclass(frozen=True)
class Request:
    """How a data set is wanted.

    `root` is the folder of downloads and decoded copies. `image_size` is the side in pixels, None: the images' own.
    `on_demand` leaves images where they are until they are used. `test_share` is the part of the images that become the
    test split where a source has none, None: `cplearn.data.splits.TEST_SHARE`. Without `download`, nothing is fetched.
    """

    root: Path
    image_size: int | None = None
    on_demand: bool = False
    test_share: float | None = None
    download: bool = True


class Source(ABC):
    """One data set, wherever its images are kept.

    `name` is what a trial calls it, with a path from the root; `place` says where the images come from.
    """

    def __init__(self, name: str, place: str) -> None:
        self.name, self.place = name, place

    @abstractmethod
    def load(self, request: Request) -> Dataset:
        """The images of both splits with labels, classes, mean, deviation and a fingerprint that identifies them all.

        A data set that is asked for twice is the same, in any process; what is kept under `request.root` is whole or
        not there. Raises InputError if it is not to be had as requested.
        """
