"""How long a user waits from the command to the first number in MLflow."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from benchmarks.commands import BETA, CommandFailed, workplace
from benchmarks.measure import Goal, Measured, Part

GOAL = Goal("at most", 15)
LIMIT = 300
"""Seconds after which waiting is given up."""


def run(quick: bool) -> Part:
    """Seconds from `cplearn sweep` to the first metric in the tracking store."""
    return Part(
        "From the command to the first metric in MLflow",
        "Seconds from the start of `cplearn sweep sweeps/beta.yaml` (digits) to the first row of metrics in its "
        "fresh SQLite store, which is looked into every 50 ms; the sweep is then stopped. Python's bytecode and the"
        " libraries' files are in the system's cache, except perhaps the first time.",
        [Measured("first metric", "s", [_wait() for _ in range(1 if quick else 3)], GOAL)],
    )


def _wait() -> float:
    with workplace() as place:
        start = time.perf_counter()
        with place.started("sweep", str(BETA), "--gpus-per-trial", "0") as process:
            while not has_metrics(place.database):
                waited = time.perf_counter() - start
                if process.poll() is not None or waited > LIMIT:
                    raise CommandFailed(f"no metric after {waited:.0f} s: {place.said()}")
                time.sleep(0.05)
            return time.perf_counter() - start


def has_metrics(database: Path) -> bool:
    """Whether the tracking store at this path, which may not exist yet or be half made, holds a metric."""
    if not database.is_file():
        return False
    try:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        try:
            return connection.execute("SELECT 1 FROM latest_metrics LIMIT 1").fetchone() is not None
        finally:
            connection.close()
    except sqlite3.OperationalError:  # Its tables are being made, or it is locked for a moment.
        return False
