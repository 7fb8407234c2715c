"""The artifacts of a few runs: what figures know of single images, codes and dimensions."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports.figures import canvas
from reports.tables.model import FINISHED
from sweeps.errors import UserError
from sweeps.record import ARRAYS_FILE, DIAGNOSTICS_FILE

MOST_RUNS = 24
Reader = Callable[[str, str], bytes | None]
"""From a run's id and the path of an artifact to its bytes; None where the run has no such artifact."""


@dataclass(frozen=True)
class Sample:
    """One run that stands for the row of this name, with what it has of diagnostics.json and evaluation.npz
    (docs/evaluation.md). An array is decompressed whenever it is asked for."""

    name: str
    diagnostics: dict[str, list[float]]
    arrays: Mapping[str, np.ndarray]

    def scaled(self, name: str) -> np.ndarray:
        """An array that is stored in half precision, with its own scale, as float64."""
        return self.arrays[name].astype(np.float64) * float(self.arrays[f"{name}_scale"])


def read(runs: pd.DataFrame, row_names: Mapping[Any, str], reader: Reader) -> list[Sample]:
    """The run of the lowest seed of each row that has a finished one, in the order of the rows.

    Where there are more than `MOST_RUNS` rows, evenly spaced ones: so the work does not grow with the sweep. `runs` has
    the columns `row`, `seed`, `status` and `run_id`. Raises UserError for an artifact that cannot be read.
    """
    finished = runs[runs["status"] == FINISHED].sort_values(["row", "seed"], kind="stable").drop_duplicates("row")
    samples = []
    for row, run_id in canvas.spread(list(zip(finished["row"], finished["run_id"], strict=True)), MOST_RUNS):
        diagnostics, arrays = reader(run_id, DIAGNOSTICS_FILE), reader(run_id, ARRAYS_FILE)
        try:
            told = json.loads(diagnostics) if diagnostics else {}
            stored = np.load(io.BytesIO(arrays), allow_pickle=False) if arrays else {}
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise UserError(
                f"an artifact of run {run_id} ({DIAGNOSTICS_FILE} or {ARRAYS_FILE}) cannot be read: {error}; "
                "run the sweep again with --force to write it anew"
            ) from None
        samples.append(Sample(row_names[row], told, stored))
    return samples
