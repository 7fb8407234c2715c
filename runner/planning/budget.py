"""Budgets of time: reading them, and the order of trials in which a table fills evenly."""

import math
import re
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from cplearn.errors import InputError
from runner.planning.plan import Job

UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
LONGEST = 366 * UNITS["d"]


def parse(text: str) -> float:
    """Seconds of `4h`, `90m`, `1h30m` or `2d`, units in falling order. Raises InputError for anything else."""
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    seconds = sum(float(n or 0) * unit for n, unit in zip(parts.groups(), UNITS.values(), strict=True)) if parts else 0
    if not 0 < seconds <= LONGEST:
        raise InputError(f"--budget {text!r}: write a time such as 90m, 4h, 1h30m or 2d, at most a year")
    return seconds


class Deadline:
    """The end of a budget, counted from the making of this object; a context manager that interrupts its block then.

    The interrupt is that of Ctrl-C; `passed` tells the two apart. The block must be run by the main thread.
    """

    def __init__(self, budget: str | None) -> None:
        self.seconds = None if budget is None else parse(budget)
        self.end = time.monotonic() + (self.seconds or math.inf)
        self.passed = False

    def allows(self, seconds: float | None) -> bool:
        """Whether work of so many seconds would end in time; of unknown length it is tried as long as time is left."""
        return time.monotonic() + (seconds or 0.0) < self.end

    def __enter__(self) -> Self:
        if self.seconds:
            self.before = signal.signal(signal.SIGALRM, self._interrupt)
            signal.setitimer(signal.ITIMER_REAL, max(self.end - time.monotonic(), 1e-3))
        return self

    def __exit__(self, *error: object) -> None:
        if self.seconds:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self.before)

    def _interrupt(self, number: int, frame: object) -> None:
        self.passed = True
        raise KeyboardInterrupt


def order(
    jobs: Sequence[Job], seeds: Sequence[int], axes: Mapping[str, Sequence[Any]], seconds: Mapping[str, float]
) -> list[Job]:
    """Jobs in the order in which a table cut short is as complete as it can be (docs/budgets.md says which); `seconds`
    has those of known time, by key."""
    rank = {seed: i for i, seed in enumerate(seeds)}
    levels = {
        (axis, repr(v)): level for axis, vs in axes.items() for v, level in zip(vs, _levels(len(vs)), strict=True)
    }

    def place(job: Job) -> tuple[int, bool, int, float]:
        # The finest of its coordinates decides, so that each level completes a whole, finer grid.
        level = max((levels.get((axis, repr(value)), 0) for axis, value in job.point.items()), default=0)
        return rank.get(job.trial.seed, len(rank)), job.role != "baseline", level, seconds.get(job.key, 0.0)

    return sorted(jobs, key=place)


def _levels(n: int) -> list[int]:
    """For each of n values in a row: 0 at the ends, 1 in the middle, 2 in the middles of both halves, and so on."""
    levels, parts = [0] * n, [(0, n - 1, 1)]
    while parts:
        low, high, level = parts.pop()
        if high - low > 1:
            middle = (low + high) // 2
            levels[middle] = level
            parts += [(low, middle, level + 1), (middle, high, level + 1)]
    return levels
