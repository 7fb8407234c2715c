"""Which trials of written tables are trained anew, and how far the new numbers agree with what the tables hold."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reports.provenance.verification import read_sidecar, sidecars_of
from reports.tables.model import FINISHED
from sweeps.errors import UserError
from sweeps.record import TIME

TOLERANCE = 0.02
"""Largest difference, relative to the larger of 1 and the number, that counts as agreement on another kind of machine.
A long training in float32 makes differences in the last digit visible."""


@dataclass(frozen=True)
class Drawn:
    """A trial behind a cell of a table: where it stands, its key and run, and the metrics that the table shows."""

    where: str
    key: str
    seed: int
    run_id: str
    metrics: tuple[str, ...]


def draw(path: str | Path, count: int, generator: random.Random) -> list[Drawn]:
    """Trials behind `count` cells, drawn without those that were drawn before; fewer where the tables have fewer.

    Raises UserError as `verify` does, and where no cell has a finished trial."""
    drawn: dict[str, Drawn] = {}
    for sidecar in sidecars_of(path):
        table = read_sidecar(sidecar).table
        for row, column, cell in table.cells():
            for source in cell.sources or row.sources:
                if source.status == FINISHED and source.run_id and cell.number:
                    where = f"{sidecar.parent}: {row.where(column)}"
                    trial = Drawn(where, source.key, source.seed, source.run_id, tuple(table.metrics))
                    drawn.setdefault(source.key, trial)
    if not drawn:
        raise UserError(f"{path}: no cell of its tables has a finished trial to train again")
    return generator.sample(list(drawn.values()), min(count, len(drawn)))


@dataclass(frozen=True)
class Agreement:
    """How new numbers of a trial agree with the old: `bitwise`, else the metric that differs most, and by how much: of
    those that the table shows, or of all where these are equal."""

    compared: int
    bitwise: bool
    metric: str = ""
    old: float = math.nan
    new: float = math.nan
    difference: float = 0.0

    def holds(self, same_machine: bool, tolerance: float) -> bool:
        """Bit for bit on the same kind of machine, else within the tolerance."""
        return self.bitwise if same_machine else self.difference <= tolerance


def compare(old: Mapping[str, float], new: Mapping[str, float], shown: tuple[str, ...]) -> Agreement:
    """Compare all metrics of a trial but times; a difference is relative to the larger of 1 and the old number. Raises
    UserError where they share none.

    >>> compare({"probe/accuracy": 0.5, "time/wall_s": 1.0}, {"probe/accuracy": 0.75}, ("probe/accuracy",)).difference
    0.25
    """
    names = [name for name in old if name in new and not name.startswith(TIME)]
    if not names:
        raise UserError("the run and the new training have no metric in common, so nothing can be compared")
    bitwise = all(old[name] == new[name] or (old[name] != old[name] and new[name] != new[name]) for name in names)
    if bitwise:
        return Agreement(len(names), True)
    # What the table shows comes first, else what differs most of all.
    apart = {name: _difference(old[name], new[name]) for name in names}
    worst = max(names, key=lambda name: (name in shown and apart[name] > 0, apart[name]))
    return Agreement(len(names), False, worst, old[worst], new[worst], apart[worst])


def _difference(old: float, new: float) -> float:
    if not (math.isfinite(old) and math.isfinite(new)):
        return 0.0 if str(old) == str(new) else math.inf
    return abs(new - old) / max(1.0, abs(old))
