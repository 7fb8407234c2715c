"""How long a user waits: for the first number in MLflow, for a plan, and where nothing is left to run."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from benchmarks.commands import BETA, CommandFailed, workplace
from benchmarks.measure import Goal, Measured, Part

FIRST, AGAIN, PLAN = Goal("at most", 8), Goal("at most", 5), Goal("at most", 2)
LIMIT = 300
"""Seconds after which waiting is given up."""


def run(quick: bool) -> Part:
    """Seconds of commands, and from `cplearn sweep` to the first metric in the tracking store."""
    repeats = 1 if quick else 3
    first = [_wait() for _ in range(repeats)]
    with workplace() as place:
        sweep = ("sweep", str(BETA), "--epochs", "1", "--gpus-per-trial", "0")
        place.seconds(*sweep)
        again = [place.seconds(*sweep) for _ in range(repeats)]
        planned = [place.seconds("plan", *sweep[1:]) for _ in range(repeats)]
    return Part(
        "Start and end of a sweep",
        "First metric: seconds from the start of `cplearn sweep sweeps/beta.yaml` (digits) to the first row of metrics "
        "in its fresh SQLite store, which is looked into every 50 ms; the sweep is then stopped. Nothing to run: the "
        "whole command, where all of its trials (of one epoch) have finished and its report is there. Plan: `cplearn "
        "plan` of the same. Python's bytecode and the libraries' files are in the system's cache, except perhaps the "
        "first time.",
        [
            Measured("first metric", "s", first, FIRST),
            Measured("a sweep with nothing to run", "s", again, AGAIN),
            Measured("its plan", "s", planned, PLAN),
        ],
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
