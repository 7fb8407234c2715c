"""From image files to pixels, at once or whenever they are asked for: in threads, a few batches ahead of their use.

The first frame is read and turned as EXIF says. Transparent images are laid over white, 16-bit greyscale keeps its high
byte (as Pillow does for 16-bit colour), every other mode is what Pillow converts it to. Threads suffice, because Pillow
decodes and resizes without Python's lock; their number does not change the pixels.
"""

import hashlib
import math
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import count, repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cplearn.errors import InputError

VERSION = 1  # Of the decoder; raise it when the same files are to give other pixels.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read, whatever a file's suffix says: Pillow would also start Ghostscript for PostScript."""
MOST_PIXELS = 100_000_000  # Of an image that is decoded, 300 MB in memory; a small file can claim to have many more.
GREYSCALE = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"}
TRANSPARENT = {"LA", "PA", "RGBA"}
AHEAD = 2  # Batches that are decoded while the caller works on another.
CENTRE = 224 / 256  # Side of the square at the centre that is shown for evaluation, as a part of the shorter side.


class Stored(NamedTuple):
    """An image file that lies within another file: a name for messages, and the function that reads its bytes."""

    name: str
    read: Callable[[], bytes]

    def __str__(self) -> str:
        return self.name


def in_memory(name: str, content: bytes) -> Stored:
    return Stored(name, lambda: content)


Encoded = Path | Stored  # An image as it is kept, before Pillow decodes it.


class Damaged(InputError):
    """An image whose bytes cannot be decoded, for a `reason`: whoever opens it again will see the same."""

    def __init__(self, encoded: Encoded, reason: str) -> None:
        super().__init__(f"{encoded}: cannot be read as an image ({reason}); repair or remove it")
        self.name, self.reason = str(encoded), reason


class Crops(NamedTuple):
    """A crop of each image of a batch: `boxes` (n, 4) of top, left, height, width in pixels, enlarged to `side`."""

    boxes: Tensor
    side: int


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """n images in files, shown as squares of `size` pixels; in place of a tensor (n, C, size, size) uint8 on the CPU.

    They are the `rows` (n,) of those that `find` knows. `extents` (n, 2) are their heights and widths as displayed.
    """

    find: Callable[[int], Encoded]
    rows: Tensor
    extents: Tensor
    channels: int
    size: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.rows), self.channels, self.size, self.size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        """Some images at once, as `split` gives them."""
        chosen = self.take(torch.arange(len(self))[rows])
        return next(chosen.split(len(chosen)))

    def take(self, rows: Tensor | slice) -> "ImageFiles":
        return replace(self, rows=self.rows[rows], extents=self.extents[rows])

    def split(self, n: int) -> Iterator[Tensor]:
        """All images as evaluation sees them, in order, `n` at a time: tensors (n, C, size, size) uint8.

        Raises InputError if a file cannot be read.
        """
        blocks = torch.arange(len(self)).split(n)
        return (crops[0] for crops in self.decoded((rows, [self.centre(rows)]) for rows in blocks))

    def centre(self, rows: Tensor) -> Crops:
        """The crops for evaluation: up to rounded corners, the usual resizing to 256 and cropping to 224 pixels."""
        extents = self.extents[rows]
        side = (extents.amin(1) * CENTRE).round().long().clamp_min(1)
        corner = (extents - side[:, None]) // 2
        return Crops(torch.cat([corner, side[:, None].expand(-1, 2)], 1), self.size)

    def decoded(self, requests: Iterable[tuple[Tensor, Sequence[Crops]]], pin: bool = False) -> Iterator[list[Tensor]]:
        """The crops of each requested batch: rows (n,) and V crops of each to V tensors (n, C, side, side) uint8.

        As many threads as torch may use read ahead. `pin` puts the results where a GPU can fetch them without the host
        waiting. Raises InputError if a file cannot be read.
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
        crops = cut_crops(self.find(int(self.rows[row])), self.channels, (height, width), boxes, sides)
        for tensor, crop in zip(out, crops, strict=True):
            tensor.numpy()[place] = crop


@contextmanager
def opened(encoded: Encoded) -> Iterator[Image.Image]:
    """An image whose pixels are not decoded yet.

    Raises InputError if it is no regular file (to open a pipe would wait for ever), cannot be opened, or has more than
    `MOST_PIXELS`; Damaged if it is not of one of the `FORMATS`, or if what is done with it fails.
    """
    try:
        if isinstance(encoded, Path) and not stat.S_ISREG(encoded.stat().st_mode):
            raise _refused(encoded, "it is not a regular file")
        content = encoded if isinstance(encoded, Path) else encoded.read()
        if not content:
            raise Damaged(encoded, "it is empty")
        with Image.open(content if isinstance(content, Path) else BytesIO(content), formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > MOST_PIXELS:
                raise _refused(encoded, f"it has {pixels:,} pixels; at most {MOST_PIXELS:,} are decoded")
            yield image
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise _refused(encoded, f"it has more pixels than the {MOST_PIXELS:,} that are decoded") from error
    except UnidentifiedImageError as error:
        raise Damaged(encoded, "its format is not known") from error
    except Exception as error:  # decoders of damaged files raise almost anything
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the image
            raise _refused(encoded, str(error)) from error
        raise Damaged(encoded, str(error)) from error


def _refused(encoded: Encoded, reason: str) -> InputError:
    return InputError(f"{encoded}: cannot be read as an image ({reason}); repair or remove it")


def check(encoded: Encoded) -> tuple[bytes, tuple[int, int], str]:
    """Digest of the file, (height, width) as displayed, and mode of an image that is decoded once to find damage.

    Raises InputError as `opened`, and if its pixels have no range that is agreed on.
    """
    with opened(encoded) as image:
        content = _digest(encoded)
        size, mode = extent(image), image.mode
        # At an eighth of the resolution, where the format can: damage shows all the same, in less time.
        image.draft(None, (1, 1))
        image.load()
        if mode[0] in "FI":
            _convert(image, 1, encoded)
    return content, size, mode


def _digest(encoded: Encoded) -> bytes:
    if isinstance(encoded, Path):
        with open(encoded, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    return hashlib.blake2b(encoded.read(), digest_size=16).digest()


def extent(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened image as it is to be seen; its pixels need not be decoded for that."""
    turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return image.size if turned else image.size[::-1]


def whole(encoded: Encoded, channels: int, size: int) -> np.ndarray:
    """One image (C, size, size) uint8: the shorter side resized to `size` (bicubic, antialiased), the centre kept."""
    with opened(encoded) as file:
        image = _convert(ImageOps.exif_transpose(file), channels, encoded)
        return _pixels(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def cut_crops(
    encoded: Encoded, channels: int, expected: tuple[int, int], boxes: Sequence[Sequence[int]], sides: Sequence[int]
) -> list[np.ndarray]:
    """Crops (C, side, side) uint8 of one image; the file is decoded once.

    `boxes` are (top, left, height, width) in pixels of an image of the `expected` (height, width). Each is cut out,
    then resized (bicubic, antialiased) to its side. A JPEG of which every crop is at least twice as large as its side
    is decoded at a half, a quarter or an eighth of its resolution, which saves most of the time.
    """
    with opened(encoded) as file:
        if extent(file) != expected:
            raise _refused(encoded, f"it has {extent(file)} pixels now, not {expected}; load the data set again")
        reduction = min(min(box[2:]) // side for box, side in zip(boxes, sides, strict=True))
        width, height = file.size
        # Rounded up, so that Pillow never reduces by more. It tells the size it will have, or None if not a JPEG.
        draft = file.draft(None, (-(-width // reduction), -(-height // reduction))) if reduction > 1 else None
        reduction = round(width / draft[1][2]) if draft else 1
        image = _convert(ImageOps.exif_transpose(file), channels, encoded)
        return [_cut(image, box, reduction, side) for box, side in zip(boxes, sides, strict=True)]


def _cut(image: Image.Image, box: Sequence[int], reduction: int, side: int) -> np.ndarray:
    """The `box` of an image, of which `image` is a version reduced by a whole factor; resized to `side`."""
    top, left, height, width = (number / reduction for number in box)
    # As published: cut first, so that nothing beyond the crop has a part in it. Of a reduced image, which may have no
    # whole pixel at the border, less than one pixel has.
    x, y = math.floor(left), math.floor(top)
    cut = image.crop((x, y, math.ceil(left + width), math.ceil(top + height)))
    corners = (left - x, top - y, left - x + width, top - y + height)
    return _pixels(cut.resize((side, side), Image.Resampling.BICUBIC, corners))


def _pixels(image: Image.Image) -> np.ndarray:
    """(C, H, W) uint8."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _convert(image: Image.Image, channels: int, name: object) -> Image.Image:
    """`image` in the 8-bit mode of 1 or 3 channels."""
    if image.mode == "F":
        raise InputError(f"{name}: its floating-point pixels have no agreed range; save them with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**16:
            raise InputError(f"{name}: its pixels beyond 16 bits have no agreed range; save them with 8 or 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode in TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")
