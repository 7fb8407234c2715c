"""The artifacts of a few runs: what figures know of single images, codes and dimensions."""

import io
import json
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
MOST_BYTES = 2**29  # Of a run's arrays: those of 10,000 images with embeddings of 16,384 dimensions are smaller.
Reader = Callable[[str, str], bytes | None]
"""From a run's id and the path of an artifact to its bytes; None where the run has no such artifact."""


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
        """An array that is stored in half precision, with its own scale, as float64; raises ValueError where that is
        not finite."""
        array = self.arrays[name].astype(np.float64) * float(self.arrays[f"{name}_scale"])
        if not np.isfinite(array).all():
            raise ValueError(f"{name} are not finite")
        return array


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


def of_each(samples: Sequence[Sample], array: str, most: int, compute: Callable[[Sample], T]) -> list[T]:
    """What `compute` makes of those samples that have an array, at most so many and evenly spaced. A sample whose
    arrays do not fit together is left out, and its file noted as damaged."""
    computed = []
    for sample in canvas.spread([sample for sample in samples if array in sample.arrays], most):
        try:
            computed.append(compute(sample))
        except Exception:  # Arrays of other shapes and kinds make NumPy raise a dozen kinds of errors.
            sample.faults[ARRAYS_FILE] = "is damaged"
    return computed


def notes(samples: Sequence[Sample]) -> Iterator[str]:
    """A sentence for each file that is not to be had of some runs, in the same way."""
    for file, fault in sorted({pair for sample in samples for pair in sample.faults.items()}):
        runs = [f"{s.name} (run {s.run_id})" for s in samples if s.faults.get(file) == fault]
        listed = ", ".join(runs[:5]) + (f" and {len(runs) - 5} more" if len(runs) > 5 else "")
        yield f"{file} {fault} for {listed}; figures lack these rows, and the sweep with --force makes it anew"


def _parsed(reader: Reader, run_id: str, file: str, parse: Callable[[bytes], T], faults: dict[str, str]) -> T | None:
    try:
        if (content := reader(run_id, file)) is not None:
            return parse(content)
        faults[file] = "is missing"
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
    """The arrays of a run, whose checksums are right; raises some error where they are not, or too large."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(member.file_size for member in archive.infolist()) > MOST_BYTES or archive.testzip():
            raise ValueError("its bytes are others than those written, or more than any evaluation gives")
    return np.load(io.BytesIO(content), allow_pickle=False)
