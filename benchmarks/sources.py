"""Images a second from each source, against the decoded copy of the folder."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks.measure import Pair, Part, alternate
from cplearn import data
from cplearn.data.image_files import ImageFiles
from runner.machine.environment import in_worker

SIZE = 64
BATCH = 64


def run(quick: bool) -> Part:
    """Images a second of batches in random order, and of a first load."""
    return Part(
        "Images from each source",
        f"Images a second, one thread. {SIZE}x{SIZE} RGB JPEGs as class folders, as Parquet and as a tar shard, and "
        "their pixels as .npz. Batches: an epoch in random order, 64 images at a time, decoded on demand (their "
        "centres), against the memory-mapped copy of the folder. First load: every image is read, checked, decoded and "
        "written to that copy, against the same of the folder.",
        in_worker(compare, 1 if quick else 5, 64 if quick else 2048),
    )


def compare(repeats: int, n: int) -> list[Pair]:
    """Pairs for each source, on `n` images."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="cplearn-bench-") as folder:
        names = written(Path(folder), n)
        loads = alternate({name: partial(_first_load, name, n) for name in names}, repeats)
        cached = data.load(names[0], Path(folder, "root"))
        sides: dict[str, Callable[[], float]] = {"cached": partial(_epoch, cached.train.images)}
        for name in names:
            if not name.startswith("npz"):
                images = data.load(name, Path(folder, "root"), SIZE, "on-demand").train.images
                sides[name] = partial(_epoch, images)
        epochs = alternate(sides, repeats)
    rows: list[Pair] = []
    for name in names:
        kind, unit = name.partition(":")[0], "images/s"
        if name in epochs:
            rows.append(Pair(f"{kind}, batches", unit, ("on demand", "cached folder"), epochs[name], epochs["cached"]))
        if name != names[0]:
            rows.append(Pair(f"{kind}, first load", unit, (kind, "folder"), loads[name], loads[names[0]]))
    return rows


def _first_load(name: str, n: int) -> float:
    root = Path(tempfile.mkdtemp(prefix="cplearn-bench-"))
    try:
        start = time.perf_counter()
        data.load(name, root)
        return n / (time.perf_counter() - start)
    finally:
        shutil.rmtree(root)


def _epoch(images: torch.Tensor | ImageFiles) -> float:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    if isinstance(images, ImageFiles):
        for _ in images.take(order).split(BATCH):
            pass
    else:
        for rows in order.split(BATCH):
            images[rows]
    return len(images) / (time.perf_counter() - start)


def written(folder: Path, n: int) -> list[str]:
    """The names of data sets that hold the same `n` images of four classes, the folder first."""
    draw = np.random.default_rng(0)
    encoded, pixels, labels = [], [], [i * 4 // n for i in range(n)]
    for i, label in enumerate(labels):
        small = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())
        pixels.append(np.asarray(Image.open(file)))
        path = folder / "folder" / str(label) / f"{i:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded[-1])
    pq.write_table(pa.table({"image": encoded, "label": labels}), folder / "a.parquet", row_group_size=100)
    np.savez_compressed(folder / "a.npz", train_images=np.stack(pixels), train_labels=labels)
    with tarfile.open(folder / "a.tar", "w") as archive:
        for i, label in enumerate(labels):
            for kind, content in (("jpg", encoded[i]), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{i:05}.{kind}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return [f"folder:{folder}/folder", f"parquet:{folder}/a.parquet", f"wds:{folder}/a.tar", f"npz:{folder}/a.npz"]
