"""ImageNet-100: the 100 classes of ImageNet that Tian et al. drew for "Contrastive Multiview Coding" (ECCV 2020).

`build` takes them out of a full ImageNet, into the data folder: imagenet100/train/<class>/* and
imagenet100/val/<class>/*, where a class is a WordNet id. ImageNet's validation images are the test split.
"""

import os
import shutil
from pathlib import Path

from cplearn.data.dataset import data_root
from cplearn.errors import InputError

NAME = "imagenet100"
SPLITS = ("train", "val")


def classes(path: Path | None = None) -> list[str]:
    """The classes in a file, one a line (from # on a comment); by default the published 100, in their order.

    Raises InputError if the file cannot be read, or does not hold at least two classes, each of them once.
    """
    path = path or Path(__file__).with_name(f"{NAME}.txt")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--classes {path}: cannot be read ({error}); it holds one class a line") from error
    names = [name for name in (line.partition("#")[0].strip() for line in lines) if name]
    bad = [name for name in names if Path(name).name != name]
    if bad:
        raise InputError(f"--classes {path}: {bad[0]!r} is no class; write one a line, n01440764 for instance")
    if len(set(names)) < max(2, len(names)):
        raise InputError(f"--classes {path}: at least two classes are needed, each of them once")
    return names


def build(source: Path, root: Path | None = None, class_list: Path | None = None, copy: bool = False) -> Path:
    """Make imagenet100 in the data folder from `source`/train/<class>/* and `source`/val/<class>/*; returns its path.

    It consists of links to the folders of `source`, or with `copy` of copies. `class_list` is a file as `classes` reads
    it. Complete or not there: a build that fails leaves nothing.

    Raises InputError if `source` has another layout or lacks classes, if the result exists already, or if it cannot be
    written.
    """
    source, target = Path(os.path.abspath(source.expanduser())), data_root(root) / NAME
    wanted = classes(class_list)
    for split in SPLITS:
        _check(source / split, wanted)
    if target.exists():
        raise InputError(f"{target} exists already; to make it anew, remove it first")
    partial = target.with_name(f"{NAME}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        for split in SPLITS:
            (partial / split).mkdir(parents=True)
            for name in wanted:
                if copy:
                    shutil.copytree(source / split / name, partial / split / name)
                else:
                    (partial / split / name).symlink_to(source / split / name, target_is_directory=True)
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(f"{target} cannot be written ({error}); free some space or set CPLEARN_DATA") from error
    return target


def _check(split: Path, wanted: list[str]) -> None:
    try:
        folders = {path.name for path in split.iterdir() if path.is_dir()}
    except OSError as error:
        raise InputError(
            f"{split}: cannot be listed ({error.strerror}); --from takes a full ImageNet with train/<class>/* and "
            "val/<class>/*"
        ) from error
    if not folders:
        raise InputError(
            f"{split}: images without class folders; ImageNet's labels file is needed to sort them into one folder a "
            "class (valprep.sh of soumith/imagenetloader.torch does so)"
        )
    missing = [name for name in wanted if name not in folders]
    if missing:
        raise InputError(f"{split}: {len(missing)} of {len(wanted)} classes are missing: {', '.join(missing)}")
