"""The data sets by name, and what each implies unless a trial says otherwise. Needs no torch."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from typing import Literal

from cplearn.errors import InputError

LONGEST, DIGITS = 50, 6
"""Most characters of a folder's name in its short name, and digits of the fingerprint behind them."""


@dataclass(frozen=True)
class Entry:
    """One data set.

    `module` has the function `load` (see `cplearn.data`). `recipe`, `backbone` and `image_size` are the defaults of a
    trial on this data set. `mean` and `std` normalise pixels in [0, 1]; None means: computed from the training split.
    `decode` lists how its images can be read, the default first. `method` holds defaults of single methods, by name.
    """

    module: str
    recipe: str
    backbone: dict[str, object]
    summary: str
    mean: float | None = None
    std: float | None = None
    image_size: int | None = None
    decode: tuple[Literal["cached", "on-demand"], ...] = ("cached",)
    method: dict[str, dict[str, object]] = field(default_factory=dict)


SLIM: dict[str, object] = {"name": "resnet8-slim"}
RESNET8: dict[str, object] = {"name": "resnet8", "width": 128}

# The scalar normalisations are those of the authors' small-scale data module; the widths are Table 1's. ImageNet's are
# means over the three channels of the usual statistics, (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225).
CATALOGUE: dict[str, Entry] = {
    "digits": Entry("digits", "digits", SLIM, "scikit-learn's 1,797 handwritten digits, 8x8; needs no download"),
    "svhn": Entry("public", "paper-noflip", RESNET8, "SVHN without its extra split, 32x32", 0.45, 0.19),
    "cifar10": Entry("public", "paper", RESNET8, "CIFAR-10, 32x32", 0.48, 0.25),
    "cifar100": Entry(
        "public",
        "paper",
        RESNET8 | {"width": 256},
        "CIFAR-100, 32x32",
        0.48,
        0.27,
        method={"cplearn": {"embedding_dim": 256}},
    ),
    "stl10": Entry("public", "imagenet", SLIM, "STL-10 with its 100,000 unlabelled images, 96x96"),
    "tiny-imagenet": Entry("public", "imagenet", SLIM, "Tiny ImageNet, 200 classes, 64x64", 0.449, 0.226),
    "imagenet100": Entry(
        "folder",
        "imagenet",
        {"name": "timm", "model": "vit_small_patch16_224"},
        "ImageNet-100, made of a full ImageNet by cplearn data imagenet100 --from PATH",
        0.449,
        0.226,
        image_size=224,
        decode=("on-demand", "cached"),
        method={"cplearn": {"embedding_dim": 384}},
    ),
    "folder": Entry(
        "folder",
        "paper",
        SLIM,
        "folder:PATH, your own images as PATH/train/<class>/* and PATH/test/<class>/*",
        decode=("cached", "on-demand"),
    ),
}


def entry(name: str) -> Entry:
    """The catalogue entry of `name` (`folder:PATH` is an entry of its own kind).

    Raises InputError, with the nearest known name, if there is none.
    """
    family, colon, path = name.partition(":")
    if family in CATALOGUE and (family == "folder") == bool(path):
        return CATALOGUE[family]
    known = ", ".join("folder:PATH" if key == "folder" else key for key in CATALOGUE)
    if family == "folder" or (colon and family in CATALOGUE):
        raise InputError(
            f"dataset {name!r}: write folder:PATH for a folder of images, or one of {known}", key="dataset"
        )
    near = difflib.get_close_matches(family, CATALOGUE, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"unknown dataset {name!r}; {hint}Known: {known}", key="dataset")


def check_decode(name: str, decode: str) -> None:
    """Raise InputError if the images of a data set cannot be read in this way."""
    ways = entry(name).decode
    if decode not in ways:
        raise InputError(f"decode {decode!r}: {name} can only be {' or '.join(ways)}", key="decode")


def absolute(name: str) -> str:
    """`name` with the path of its folder from the root. A link keeps its own name, not that of what it leads to.

    >>> absolute("digits"), absolute("folder:/data/./birds/")
    ('digits', 'folder:/data/birds')
    """
    family, _, path = name.partition(":")
    return f"folder:{os.path.abspath(os.path.expanduser(path))}" if family == "folder" and path else name


def slug(name: str, fingerprint: str = "") -> str:
    """`name` as a part of paths and of metrics' names. That of a folder ends with digits of its images' fingerprint:
    other folders may have the same last part, and other images may come to lie in the same folder.

    >>> slug("digits", "98fe13"), slug("folder:/data/my set", "1f3a9c0b")
    ('digits', 'folder-my-set-1f3a9c')
    """
    family, _, path = name.partition(":")
    if not path:
        return family
    base = "".join(c if c.isalnum() or c in "._-" else "-" for c in path.rstrip("/").rsplit("/", 1)[-1])
    # Names of files have room for 255 bytes.
    return f"{family}-{base[:LONGEST]}-{fingerprint[:DIGITS]}" if fingerprint else f"{family}-{base}"
