"""The same images as a folder, as a heap with labels.csv, and within Parquet files, tar shards and arrays."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pictures import LONG_AGO, save


class Picture(NamedTuple):
    """An image (H, W, 3) with its split, the name of its class (empty: none), and a file name."""

    split: str
    label: str
    name: str
    pixels: np.ndarray


CLASSES = ("cat", "dog", "elk")


def pictures(train: int = 30, test: int = 9, size: int = 8, seed: int = 0) -> list[Picture]:
    """Images of noise whose mean colour tells the class, sorted by split, class and name."""
    draw = np.random.default_rng(seed)
    made = []
    for split, n in (("train", train), ("test", test)):
        for i in range(n):
            label = i * len(CLASSES) // n
            pixels = draw.integers(0, 120, (size, size, 3)) + 60 * (np.arange(3) == label)
            made.append(Picture(split, CLASSES[label], f"{i:05}.png", pixels.astype(np.uint8)))
    return made


def folder(path: Path, made: Sequence[Picture]) -> str:
    for picture in made:
        save(path / picture.split / picture.label / picture.name, picture.pixels)
    return f"folder:{path}"


def heap(path: Path, made: Sequence[Picture]) -> str:
    """All images in one folder under names that tell nothing, in another order, and labels.csv beside them."""
    rows = []
    for i, picture in enumerate(made):
        # Within a class the order is that of the names.
        name = f"{picture.split}_{i:05} & so on.PNG"
        save(path / name, picture.pixels)
        rows.append((name, picture.label, picture.split))
    with open(path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *reversed(rows)])
    return f"folder:{path}"


def parquet(path: Path, made: Sequence[Picture], rows: int = 7) -> str:
    """One file a split, as `datasets` writes them, in groups of a few rows."""
    path.mkdir(parents=True)
    classes = classes_of(made)
    for split in ("train", "test"):
        own = [picture for picture in made if picture.split == split]
        images = [{"bytes": encoded(picture.pixels), "path": picture.name} for picture in own]
        labels = pa.array([classes.index(picture.label) if picture.label else None for picture in own], pa.int64())
        features = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
        table = pa.table({"image": images, "label": labels})
        about = {"huggingface": json.dumps({"info": {"features": features}})}
        file = path / f"{split}-00000-of-00001.parquet"
        pq.write_table(table.replace_schema_metadata(about), file, row_group_size=rows)
        os.utime(file, ns=(LONG_AGO, LONG_AGO))
    return f"parquet:{path}"


def shards(path: Path, made: Sequence[Picture], images: int = 20) -> str:
    """Tar files of so many images, with labels in .cls."""
    path.mkdir(parents=True)
    for split in ("train", "test"):
        own = [picture for picture in made if picture.split == split]
        for shard in range(0, len(own), images):
            file = path / f"{split}-{shard // images:03}.tar"
            with tarfile.open(file, "w") as archive:
                for picture in own[shard : shard + images]:
                    stem = picture.name.partition(".")[0]
                    contents = {"png": encoded(picture.pixels)}
                    if picture.label:
                        contents["cls"] = picture.label.encode()
                    for kind, content in contents.items():
                        member = tarfile.TarInfo(f"{stem}.{kind}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))
            os.utime(file, ns=(LONG_AGO, LONG_AGO))
    return f"wds:{path}/*.tar"


def npz(path: Path, made: Sequence[Picture]) -> str:
    arrays, classes = {}, classes_of(made)
    for split in ("train", "test"):
        own = [picture for picture in made if picture.split == split]
        arrays[f"{split}_images"] = np.stack([picture.pixels for picture in own])
        arrays[f"{split}_labels"] = np.array([[classes.index(p.label) if p.label else -1] for p in own])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return f"npz:{path}"


def classes_of(made: Sequence[Picture]) -> list[str]:
    return sorted({picture.label for picture in made} - {""})


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def everywhere(path: Path, made: Sequence[Picture]) -> dict[str, str]:
    """The name of each data set that holds these images."""
    return {
        "folder": folder(path / "folder", made),
        "heap": heap(path / "heap", made),
        "parquet": parquet(path / "parquet", made),
        "shards": shards(path / "shards", made),
        "npz": npz(path / "arrays.npz", made),
    }
