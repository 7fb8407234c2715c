"""What a sweep of thousands of trials costs beside the training: seconds and memory a trial, writes, and planning."""

from __future__ import annotations

import itertools
import re
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.commands import CommandFailed, Workplace, workplace
from benchmarks.measure import Goal, Measured, Pair, Part, seconds
from benchmarks.report import fill
from cplearn import data, training
from cplearn.config.trial import TrialSettings
from runner.machine import resources
from runner.machine.environment import in_worker
from runner.planning.plan import SCHEMA, make_plan
from sweeps.spec import read_sweep

TRIALS, KNOWN, WRITTEN = 2000, 10_000, 200
OVERHEAD, GROWTH, PLANNING = Goal("at most", 0.3), Goal("at most", 1.1), Goal("at most", 5)
SETTINGS: dict[str, Any] = {
    "method": {"name": "untrained"},
    "backbone": {"name": "resnet8-slim", "width": 4},
    "evaluation": {"kmeans_restarts": 1},
}
LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Sample:
    """What was seen of a running sweep: seconds by a clock, resident MiB of its driver, trials that have ended."""

    when: float
    memory: float
    done: int


def run(quick: bool) -> Part:
    """A sweep of trivial trials by the command as users start it, and a plan over a store that knows many."""
    trials, known, written = (12, 50, 4) if quick else (TRIALS, KNOWN, WRITTEN)
    alone = in_worker(trial_seconds, 2 if quick else 20)
    with workplace() as place:
        slots = min(trials, resources.local(resources.Resources(1, 0, 1))[1])
        samples = watch(place, trials)
        copy_runs(place, known)
        planning = [place.seconds("plan", "bench.yaml", "--seeds", str(known)) for _ in range(1 if quick else 3)]
    with workplace() as place:
        writing = in_worker(fill, place.folder, written // 2, 2) / written
    first, last = (pace(samples, *quarter) for quarter in ((0, 0.25), (0.75, 1)))
    whole = pace(samples, 0, 1)
    early, late = (memory(samples, share) for share in (0.25, 1))
    return Part(
        f"A sweep of {trials:,} trivial trials",
        f"The whole command `cplearn sweep` on {slots} slots of one CPU: untrained ResNet-8 slim on the digits, which "
        "is only evaluated, one seed a trial, MLflow in a SQLite file. Seconds a trial are wall-clock time "
        "between the first and the last trial that the driver reports; beyond the training is what is left of them "
        "after the seconds of one trial alone in one process, divided by the slots. Memory is the driver's resident "
        "set. The store of the plan holds copies of a finished run under the keys of the sweep's trials.",
        [
            Measured("seconds of one trial alone, without a sweep", "s", alone),
            Measured("a trial of the sweep", "s", [whole]),
            Measured(
                "a trial of the sweep beyond the training",
                "s",
                [max(0.0, whole - sum(alone) / len(alone) / slots)],
                OVERHEAD,
            ),
            Pair("a trial, last quarter over first", "s", ("last", "first"), [last], [first], GROWTH),
            Pair("memory of the driver, all trials over a quarter", "MiB", ("all", "quarter"), [late], [early], GROWTH),
            Measured("MLflow: writing one run of two epochs, SQLite", "s", [writing]),
            Measured(f"`cplearn plan` over {known:,} known trials", "s", planning, PLANNING),
        ],
    )


def trial_seconds(repeats: int) -> list[float]:
    """Seconds of a trial in this process, after one that warms up."""
    torch.set_num_threads(1)
    digits, trial = data.load("digits"), TrialSettings.read(SETTINGS)
    training.train(trial, digits)
    return [seconds(lambda: training.train(trial, digits)) for _ in range(repeats)]


def watch(place: Workplace, trials: int) -> list[Sample]:
    """Run a sweep `bench` of so many seeds and look at it until it ends; raises CommandFailed."""
    (place.folder / "bench.yaml").write_text(yaml.safe_dump({"sweep": "bench", "settings": SETTINGS, "seeds": trials}))
    samples: list[Sample] = []
    with place.started("sweep", "bench.yaml", "--gpus-per-trial", "0") as process:
        with (place.folder / "output").open(errors="replace") as output:
            done, rest = 0, ""
            while process.poll() is None:
                # A line may be half written.
                rest += output.read()
                lines, _, rest = rest.rpartition("\n")
                done += len(re.findall(r"^done ", lines, re.MULTILINE))
                if done < trials or not samples or samples[-1].done < trials:
                    samples.append(Sample(time.perf_counter(), _resident(process), done))
                time.sleep(LOOK_SECONDS)
        if process.returncode:
            raise CommandFailed(f"cplearn sweep ended with status {process.returncode}: {place.said()}")
    return samples


def _resident(process: subprocess.Popen[bytes]) -> float:
    """Resident MiB of a process; 0 once it has ended."""
    try:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def pace(samples: Sequence[Sample], start: float, end: float) -> float:
    """Wall-clock seconds a trial between two shares of the trials, the first trial's own end at the earliest."""
    total = samples[-1].done
    first, last = max(1.0, start * total), end * total
    return (_reached(samples, last) - _reached(samples, first)) / (last - first)


def _reached(samples: Sequence[Sample], count: float) -> float:
    """When so many trials had ended, on the line between the two samples around."""
    before, after = next((a, b) for a, b in itertools.pairwise(samples) if b.done >= count)
    return before.when + (after.when - before.when) * (count - before.done) / (after.done - before.done)


def memory(samples: Sequence[Sample], share: float) -> float:
    """The driver's memory when this share of the trials had ended."""
    return next(one.memory for one in samples if one.done >= share * samples[-1].done)


def copy_runs(place: Workplace, known: int) -> None:
    """Make the store know a finished run of each trial of the sweep `bench` with so many seeds."""
    sweep = read_sweep(place.folder / "bench.yaml", SCHEMA, seeds=known)
    keys = [job.key for job in make_plan(sweep, place.folder / "data").jobs]
    with closing(sqlite3.connect(place.database)) as store, store:
        had = store.execute("SELECT value, run_uuid FROM tags WHERE key = 'cplearn.key'").fetchall()
        model = had[0][1]
        new = sorted(set(keys) - {key for key, _ in had})
        store.execute("CREATE TEMP TABLE fresh (id TEXT, name TEXT)")
        store.executemany("INSERT INTO fresh VALUES (?, ?)", [(f"{key:0>32}", key) for key in new])
        for table in ("runs", "tags", "params", "metrics", "latest_metrics"):
            columns = [row[1] for row in store.execute(f"PRAGMA table_info({table})")]
            values = ", ".join("fresh.id" if column == "run_uuid" else f"{table}.{column}" for column in columns)
            store.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {table}, fresh "
                f"WHERE {table}.run_uuid = ?",
                (model,),
            )
        store.execute(
            "UPDATE tags SET value = (SELECT name FROM fresh WHERE id = tags.run_uuid) "
            "WHERE key = 'cplearn.key' AND run_uuid IN (SELECT id FROM fresh)"
        )
