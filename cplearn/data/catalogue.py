"""The data sets by name, and what each implies unless a trial says otherwise. Needs no torch."""

import difflib
import os
from dataclasses import dataclass, field
from typing import Literal

from cplearn import outside
from cplearn.errors import InputError

LONGEST, DIGITS = 50, 6  # Characters of a folder's name in its short name, digits of the fingerprint behind them.


@dataclass(frozen=True)
class Entry:
    """One data set.

    `module` has the function `source(name, root)`, which returns a `cplearn.data.Source`. `recipe`, `backbone`
    and `image_size` are the defaults of a trial on this data set. `mean` and `std` normalise pixels in [0, 1]; None
    means: computed from the training split. `decode` lists how its images can be read, the default first. `method`
    holds defaults of single methods, by name. `takes` says what stands behind the name and a colon, PATH for instance;
    such images are resized to `image_size`, all others have a size of their own.
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
    takes: Literal["", "PATH", "PATTERN", "NAME"] = ""


SLIM: dict[str, object] = {"name": "resnet8-slim"}
RESNET8: dict[str, object] = {"name": "resnet8", "width": 128}


def _own(
    module: str,
    takes: Literal["PATH", "PATTERN", "NAME"],
    summary: str,
    decode: tuple[Literal["cached", "on-demand"], ...] = ("cached", "on-demand"),
) -> Entry:
    """The entry of images that a user has, wherever they are kept; all have the same defaults."""
    return Entry(f"cplearn.data.{module}", "paper", SLIM, summary, decode=decode, takes=takes)


# The scalar normalisations are those of the authors' small-scale data module; the widths are Table 1's. ImageNet's are
# means over the three channels of the usual statistics, (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225).
CATALOGUE: dict[str, Entry] = {
    "digits": Entry(
        "cplearn.data.digits", "digits", SLIM, "scikit-learn's 1,797 handwritten digits, 8x8; needs no download"
    ),
    "svhn": Entry("cplearn.data.public", "paper-noflip", RESNET8, "SVHN without its extra split, 32x32", 0.45, 0.19),
    "cifar10": Entry("cplearn.data.public", "paper", RESNET8, "CIFAR-10, 32x32", 0.48, 0.25),
    "cifar100": Entry(
        "cplearn.data.public",
        "paper",
        RESNET8 | {"width": 256},
        "CIFAR-100, 32x32",
        0.48,
        0.27,
        method={"cplearn": {"embedding_dim": 256}},
    ),
    "stl10": Entry("cplearn.data.public", "imagenet", SLIM, "STL-10 with its 100,000 unlabelled images, 96x96"),
    "tiny-imagenet": Entry("cplearn.data.public", "imagenet", SLIM, "Tiny ImageNet, 200 classes, 64x64", 0.449, 0.226),
    "imagenet100": Entry(
        "cplearn.data.folder",
        "imagenet",
        {"name": "timm", "model": "vit_small_patch16_224"},
        "ImageNet-100, made of a full ImageNet by cplearn data imagenet100 --from PATH",
        0.449,
        0.226,
        image_size=224,
        decode=("on-demand", "cached"),
        method={"cplearn": {"embedding_dim": 384}},
    ),
    "folder": _own("folder", "PATH", "your own images, in class folders or a heap; see cplearn data check PATH"),
    "parquet": _own("parquet", "PATH", "a Parquet file of images, or a folder of such files"),
    "npz": _own("npz", "PATH", "arrays of images in one file, as MedMNIST writes them", ("cached",)),
    "wds": _own("shards", "PATTERN", "tar files of images, as WebDataset writes them"),
    "hf": _own("hub", "NAME", "a data set of the Hugging Face hub; needs the library datasets"),
}


def names() -> list[str]:
    """How each data set is written in a trial.

    >>> names()[0], names()[-1]
    ('digits', 'hf:NAME')
    """
    ours = [f"{name}:{entry.takes}" if entry.takes else name for name, entry in CATALOGUE.items()]
    return ours + sorted(outside.registered(outside.DATASETS).keys() - CATALOGUE.keys())


def _of_family(family: str) -> Entry | None:
    """The entry of what stands before the colon: of the catalogue, or `ENTRY` of a module from outside; None: neither.

    Raises InputError if that module cannot be imported.
    """
    if family in CATALOGUE or not outside.has(outside.DATASETS, family):
        return CATALOGUE.get(family)
    return outside.module(outside.DATASETS, family, "dataset", ["ENTRY", "source"]).ENTRY


def entry(name: str) -> Entry:
    """The catalogue entry of `name`, of a family of data sets by what stands before the colon.

    Raises InputError, with the nearest known name, if there is none.
    """
    family, colon, rest = name.partition(":")
    known = ", ".join(names())
    if entry := _of_family(family):
        if bool(entry.takes) == bool(rest) and (rest or not colon):
            return entry
        wanted = f"{family}:{entry.takes}" if entry.takes else family
        raise InputError(f"dataset {name!r}: write {wanted}, or one of {known}", key="dataset")
    near = difflib.get_close_matches(family, CATALOGUE, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"unknown dataset {name!r}; {hint}Known: {known}", key="dataset")


def check_decode(name: str, decode: str) -> None:
    """Raise InputError if the images of a data set cannot be read in this way."""
    ways = entry(name).decode
    if decode not in ways:
        raise InputError(f"decode {decode!r}: {name} can only be {' or '.join(ways)}", key="decode")


def absolute(name: str) -> str:
    """`name` with its path from the root. A link keeps its own name, not that of what it leads to.

    >>> absolute("digits"), absolute("folder:/data/./birds/")
    ('digits', 'folder:/data/birds')
    """
    family, _, path = name.partition(":")
    entry = _of_family(family) if path else None
    takes, path = entry.takes if entry else "", os.path.expanduser(path)
    # A name on the hub may be that of a folder here, which the library prefers.
    is_path = takes in ("PATH", "PATTERN") or (takes == "NAME" and os.path.isdir(path))
    return f"{family}:{os.path.abspath(path)}" if is_path else name


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
