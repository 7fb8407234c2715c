"""The artifacts of a few runs: what figures know of single images, codes and dimensions."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from reports.figures import canvas
from sweeps.errors import UserError

MOST_RUNS = 24
Reader = Callable[[str, str], bytes | None]
"""From a run's id and the path of an artifact to its bytes; None where the run has no such artifact."""


@dataclass(frozen=True)
class Sample:
    """One run that stands for a row.

    `name` is that of the row. `diagnostics` and `arrays` are what the run has of diagnostics.json and evaluation.npz
    (docs/evaluation.md); what a method has not, or an older version did not write, is not among them. An array is
    decompressed whenever it is asked for.
    """

    name: str
    seed: int
    run_id: str
    diagnostics: dict[str, list[float]] = field(repr=False)
    arrays: np.lib.npyio.NpzFile | dict[str, np.ndarray] = field(repr=False)

    def scaled(self, name: str) -> np.ndarray:
        """An array that is stored in half precision, with its own scale, as float64."""
        return self.arrays[name].astype(np.float64) * float(self.arrays[f"{name}_scale"])


def read(runs: pd.DataFrame, row_names: Mapping[Any, str], reader: Reader, most: int = MOST_RUNS) -> list[Sample]:
    """The run of the lowest seed of each row that has a finished one, in the order of the rows.

    Where there are more than `most` rows, evenly spaced ones: so the work does not grow with the sweep. `runs` has the
    columns `row`, `seed`, `status` and `run_id`. Raises UserError for an artifact that cannot be read.
    """
    finished = runs[runs["status"] == "FINISHED"].sort_values(["row", "seed"], kind="stable").drop_duplicates("row")
    samples = []
    for row, seed, run_id in canvas.spread(finished[["row", "seed", "run_id"]].to_numpy(dtype=object).tolist(), most):
        diagnostics, arrays = reader(run_id, "diagnostics.json"), reader(run_id, "evaluation.npz")
        if diagnostics is None and arrays is None:
            continue
        try:
            samples.append(
                Sample(
                    row_names[row],
                    int(seed),
                    run_id,
                    json.loads(diagnostics) if diagnostics else {},
                    np.load(io.BytesIO(arrays), allow_pickle=False) if arrays else {},
                )
            )
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise UserError(
                f"an artifact of run {run_id} (diagnostics.json or evaluation.npz) cannot be read: {error}; "
                "run the sweep again with --force to write it anew"
            ) from None
    return samples
