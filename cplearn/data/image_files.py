"""Images that stay in their files: decoded when they are asked for, in threads, a few batches ahead of their use.

Nothing is kept, so a data set may be far larger than memory. Threads suffice, because Pillow decodes and resizes
without holding Python's lock. Which pixels come out does not depend on their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count, repeat
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cplearn.data import decode

AHEAD = 2
"""Batches that are decoded while the caller works on another."""
CENTRE = 224 / 256
"""Side of the square at an image's centre that is shown for evaluation, as a part of its shorter side."""


class Crops(NamedTuple):
    """A crop of each image of a batch: `boxes` (n, 4) of top, left, height, width in pixels, enlarged to `side`."""

    boxes: Tensor
    side: int


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """n images in files, shown as squares of `size` pixels; in place of a tensor (n, C, size, size) uint8 on the CPU.

    `paths` lead from `folder` to the files. `extents` (n, 2) are their heights and widths as displayed.
    """

    folder: Path
    paths: Sequence[str]
    extents: Tensor
    channels: int
    size: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.paths), self.channels, self.size, self.size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Some images at once, as `split` gives them."""
        chosen = torch.arange(len(self))[rows]
        (images,) = next(self.decoded([(chosen, [self.centre(chosen)])]))
        return images

    def take(self, rows: Tensor) -> ImageFiles:
        """The files of some rows."""
        return replace(self, paths=[self.paths[row] for row in rows.tolist()], extents=self.extents[rows])

    def split(self, n: int) -> Iterator[Tensor]:
        """All images for evaluation, in order, `n` at a time: tensors (n, C, size, size) uint8.

        The square at the centre whose side is 224/256 of the shorter side, resized; up to the rounding of its corners
        that is the usual resizing to 256 and cropping to 224 pixels. Raises InputError if a file cannot be read.
        """
        blocks = torch.arange(len(self)).split(n)
        return (crops[0] for crops in self.decoded((rows, [self.centre(rows)]) for rows in blocks))

    def centre(self, rows: Tensor) -> Crops:
        """The crops that `split` shows."""
        extents = self.extents[rows]
        side = (extents.amin(1) * CENTRE).round().long().clamp_min(1)
        corner = (extents - side[:, None]) // 2
        return Crops(torch.cat([corner, side[:, None].expand(-1, 2)], 1), self.size)

    def decoded(self, requests: Iterable[tuple[Tensor, Sequence[Crops]]], pin: bool = False) -> Iterator[list[Tensor]]:
        """The crops of each requested batch: rows (n,) and V crops of each to V tensors (n, C, side, side) uint8.

        As many threads as torch may use read a few batches ahead of what is consumed. `pin` puts the results where a
        GPU can fetch them without the host waiting. Raises InputError if a file cannot be read.
        """
        pool = ThreadPoolExecutor(torch.get_num_threads(), "decode")
        pending: deque[tuple[list[Tensor], Iterator[None]]] = deque()

        def finished() -> list[Tensor]:
            out, results = pending.popleft()
            list(results)  # waits for all, and raises what one has raised
            return out

        try:
            for rows, crops in requests:
                shape = (len(rows), self.channels)
                out = [torch.empty(*shape, side, side, dtype=torch.uint8, pin_memory=pin) for _, side in crops]
                boxes = torch.stack([crop.boxes.long() for crop in crops], 1).tolist()
                pending.append((out, pool.map(self._decode, rows.tolist(), boxes, repeat(out), count())))
                if len(pending) > AHEAD:
                    yield finished()
            while pending:
                yield finished()
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode(self, row: int, boxes: list[list[int]], out: list[Tensor], place: int) -> None:
        """Write the crops of image `row` to `place` of each tensor."""
        height, width = self.extents[row].tolist()
        sides = [tensor.shape[-1] for tensor in out]
        crops = decode.crops(self.folder / self.paths[row], self.channels, (height, width), boxes, sides)
        for tensor, crop in zip(out, crops, strict=True):
            tensor.numpy()[place] = crop
