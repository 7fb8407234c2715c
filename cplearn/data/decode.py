"""From an image file to pixels.

The first frame is read and turned as EXIF says. Transparent images are laid over white, 16-bit greyscale keeps its high
byte (as Pillow does for 16-bit colour), every other mode is what Pillow converts it to.
"""

from __future__ import annotations

import hashlib
import math
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from cplearn.errors import InputError

VERSION = 1
"""Of the decoder; raise it when the same files are to give other pixels."""
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are read, whatever a file's suffix says: Pillow would also start Ghostscript for PostScript."""
MOST_PIXELS = 100_000_000
"""Most pixels of an image that is decoded, 300 MB in memory; a small file can claim to have many more."""
GREYSCALE = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"}
TRANSPARENT = {"LA", "PA", "RGBA"}


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file whose pixels are not decoded yet.

    Raises InputError if it is no regular file (to open a pipe would wait for ever), has more than `MOST_PIXELS`, is not
    of one of the `FORMATS`, or if what is done with it fails.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is not a regular file")
        with Image.open(path, formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > MOST_PIXELS:
                raise ValueError(f"it has {pixels:,} pixels; at most {MOST_PIXELS:,} are decoded")
            yield image
    except Exception as error:  # decoders of damaged files raise almost anything
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> InputError:
    """What to say of a file that could not be read."""
    reason = "its format is not known" if isinstance(error, UnidentifiedImageError) else str(error)
    return InputError(f"{path}: cannot be read as an image ({reason}); repair or remove it")


def check(path: Path) -> tuple[bytes, tuple[int, int], str]:
    """Digest of the file, (height, width) as displayed, and mode of an image that is decoded once to find damage.

    Raises InputError if it cannot be decoded to its end.
    """
    with opened(path) as image, open(path, "rb") as file:
        content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
        size, mode = extent(image), image.mode
        # At an eighth of the resolution, where the format can: damage shows all the same, in less time.
        image.draft(None, (1, 1))
        image.load()
    return content, size, mode


def extent(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened image as it is to be seen; its pixels need not be decoded for that."""
    turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return image.size if turned else image.size[::-1]


def whole(path: Path, channels: int, size: int) -> np.ndarray:
    """One image (C, size, size) uint8: the shorter side resized to `size` (bicubic, antialiased), the centre kept."""
    with opened(path) as file:
        image = _convert(ImageOps.exif_transpose(file), channels)
        return _pixels(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def crops(
    path: Path, channels: int, expected: tuple[int, int], boxes: Sequence[Sequence[int]], sides: Sequence[int]
) -> list[np.ndarray]:
    """Crops (C, side, side) uint8 of one image; the file is decoded once.

    `boxes` are (top, left, height, width) in pixels of an image of the `expected` (height, width). Each is cut out,
    then resized (bicubic, antialiased) to its side. A JPEG of which every crop is at least twice as large as its side
    is decoded at a half, a quarter or an eighth of its resolution, which saves most of the time.
    """
    with opened(path) as file:
        if extent(file) != expected:
            raise ValueError(f"it has {extent(file)} pixels now, not {expected}; load the data set again")
        reduction = min(min(box[2:]) // side for box, side in zip(boxes, sides, strict=True))
        width, height = file.size
        # Rounded up, so that Pillow never reduces by more. It tells the size it will have, or None if not a JPEG.
        draft = file.draft(None, (-(-width // reduction), -(-height // reduction))) if reduction > 1 else None
        reduction = round(width / draft[1][2]) if draft else 1
        image = _convert(ImageOps.exif_transpose(file), channels)
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


def _convert(image: Image.Image, channels: int) -> Image.Image:
    """`image` in the 8-bit mode of 1 or 3 channels."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save them with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() >= 2**16:
            raise ValueError("pixels beyond 16 bits have no agreed range; save them with 8 or 16 bits")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode in TRANSPARENT or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")
