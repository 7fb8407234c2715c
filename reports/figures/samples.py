"""The artifacts of a few runs: what figures know of single images, codes and dimensions."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from reports.figures import canvas
from reports.tables.model import FINISHED
from sweeps.errors import UserError
from sweeps.record import ARRAYS_FILE, DIAGNOSTICS_FILE

T = TypeVar("T")
MOST_RUNS = 24
MOST_BYTES = 2**29
"""Of the arrays of a run: those of 10,000 images with embeddings of 16,384 dimensions are smaller."""
Reader = Callable[[str, str], bytes | None]
"""From a run's id and the path of an artifact to its bytes; None where the run has no such artifact."""

# The dimensions of each array; equal letters mean equal numbers.
SHAPES = {
    "labels": "n",
    "codes": "n",
    "kept": "m",
    "features": "md",
    "features_scale": "",
    "embeddings": "mf",
    "embeddings_scale": "",
    "top_codes": "t",
    "code_images": "tp",
    "queries": "q",
    "neighbours": "qr",
    "shown": "s",
    "thumbnails": "schw",
}
# The kinds of the entries that are not whole numbers with a sign.
KINDS = {"features": "f", "embeddings": "f", "thumbnails": "u"}
# What figures of an array need beside it.
NEEDED = {
    "features": ("labels", "kept", "features_scale"),
    "embeddings": ("labels", "kept", "embeddings_scale"),
    "top_codes": ("labels", "codes", "code_images"),
    "thumbnails": ("labels", "shown", "queries", "neighbours"),
}


@dataclass(frozen=True)
class Sample:
    """One run that stands for the row of this name, with what it has of diagnostics.json and evaluation.npz
    (docs/evaluation.md). An array is decompressed whenever it is asked for. `faults` says of a file that is not to be
    had what is wrong with it."""

    name: str
    diagnostics: dict[str, list[float]]
    arrays: Mapping[str, np.ndarray]
    run_id: str = ""
    faults: dict[str, str] = field(default_factory=dict)

    def scaled(self, name: str) -> np.ndarray:
        """An array that is stored in half precision, with its own scale, as float64."""
        return self.arrays[name].astype(np.float64) * float(self.arrays[f"{name}_scale"])


def read(runs: pd.DataFrame, row_names: Mapping[Any, str], reader: Reader) -> list[Sample]:
    """The run of the lowest seed of each row that has a finished one, in the order of the rows.

    Where there are more than `MOST_RUNS` rows, evenly spaced ones: so the work does not grow with the sweep. `runs` has
    the columns `row`, `seed`, `status` and `run_id`. A file that is missing, damaged or not to be read counts as empty.
    """
    finished = runs[runs["status"] == FINISHED].sort_values(["row", "seed"], kind="stable").drop_duplicates("row")
    samples = []
    for row, run_id in canvas.spread(list(zip(finished["row"], finished["run_id"], strict=True)), MOST_RUNS):
        faults: dict[str, str] = {}
        diagnostics = _parsed(reader, run_id, DIAGNOSTICS_FILE, _diagnostics, faults) or {}
        arrays = _parsed(reader, run_id, ARRAYS_FILE, _arrays, faults) or {}
        samples.append(Sample(row_names[row], diagnostics, arrays, run_id, faults))
    return samples


def notes(samples: Sequence[Sample]) -> Iterator[str]:
    """A sentence for each file that is not to be had of some runs, in the same way."""
    for file, fault in sorted({pair for sample in samples for pair in sample.faults.items()}):
        runs = [f"{s.name} (run {s.run_id})" for s in samples if s.faults.get(file) == fault]
        listed = ", ".join(runs[:5]) + (f" and {len(runs) - 5} more" if len(runs) > 5 else "")
        yield f"{file} {fault} for {listed}; figures lack these rows, and the sweep with --force makes it anew"


def _parsed(reader: Reader, run_id: str, file: str, parse: Callable[[bytes], T], faults: dict[str, str]) -> T | None:
    try:
        content = reader(run_id, file)
        if content is None:
            faults[file] = "is missing"
            return None
        return parse(content)
    except UserError:
        faults[file] = "cannot be fetched"
    except Exception:  # Damaged files make json, zipfile and NumPy raise a dozen kinds of errors.
        faults[file] = "is damaged"
    return None


def _diagnostics(content: bytes) -> dict[str, list[float]]:
    """Lists of numbers, none of them negative; raises some error for anything else."""
    lists = {name: [float(number) for number in numbers] for name, numbers in json.loads(content).items()}
    if not all(0 <= number < 1e18 for numbers in lists.values() for number in numbers):
        raise ValueError("a number is negative, too large or none")
    if not any(map(int, lists.get("code_counts", [1]))):
        raise ValueError("no code is used")
    return lists


def _arrays(content: bytes) -> Mapping[str, np.ndarray]:
    """The arrays of a run, which fit together; raises some error where they do not, or where they are too large."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
            raise ValueError("more than any evaluation gives")
        for member in archive.infolist():
            with archive.open(member) as file:
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            # NumPy believes a header, and makes room for what it says.
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise ValueError("its header says more than there is")
    stored = np.load(io.BytesIO(content), allow_pickle=False)
    sizes: dict[str, int] = {}
    for name in SHAPES.keys() & {*stored}:
        array, kind = stored[name], KINDS.get(name.partition("_")[0], "i")
        if array.dtype.kind != kind or not array.size or not float(np.abs(array).max()) < 1e18:
            raise ValueError(f"{name} holds something else")
        if any(sizes.setdefault(*dim) != dim[1] for dim in zip(SHAPES[name], array.shape, strict=True)):
            raise ValueError(f"{name} has another shape than what belongs to it")
    if not all({*NEEDED[name]} <= {*stored} for name in NEEDED if name in stored):
        raise ValueError("arrays that are needed are missing")
    _check_images(stored, sizes)
    return stored


def _check_images(stored: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> None:
    """Raise ValueError unless all images that are named are there; -1 stands for none, but no line begins with it."""
    if "kept" in stored and not ((stored["kept"] >= 0) & (stored["kept"] < sizes["n"])).all():
        raise ValueError("kept images are beyond the labels")
    if "thumbnails" not in stored:
        return
    named = [stored[name] for name in ("queries", "neighbours", "code_images") if name in stored]
    shown = stored["shown"].tolist()
    is_in_order = shown == sorted({*shown}) and 0 <= shown[0] <= shown[-1] < sizes["n"]
    if not is_in_order or not all({*array.ravel().tolist()} <= {-1, *shown} for array in named):
        raise ValueError("images are named that are not there")
    if any((array.reshape(len(array), -1)[:, 0] < 0).any() for array in (named[0], *named[2:])):
        raise ValueError("a line of images is empty")
    if stored["thumbnails"].dtype != np.uint8 or sizes["c"] not in (1, 3) or sizes.get("p", 0) > sizes["r"] + 1:
        raise ValueError("thumbnails are no images, or fewer than codes have")
