"""Budgets of time: reading them, and the order of trials in which a table fills evenly."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cplearn.errors import InputError
from runner.plan import Job

UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
LONGEST = 366 * UNITS["d"]


def parse(text: str) -> float:
    """Seconds of `4h`, `90m`, `1h30m` or `2d`, units in falling order. Raises InputError for anything else."""
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    seconds = sum(float(n or 0) * unit for n, unit in zip(found.groups(), UNITS.values(), strict=True)) if found else 0
    if not 0 < seconds <= LONGEST:
        raise InputError(f"--budget {text!r}: write a time such as 90m, 4h, 1h30m or 2d, at most a year")
    return seconds


def order(
    jobs: Sequence[Job],
    seeds: Sequence[int],
    axes: Mapping[str, Sequence[Any]],
    seconds: Callable[[Job], float | None] = lambda job: None,
) -> list[Job]:
    """Jobs in the order in which a table cut short is as complete as it can be.

    Seed by seed, so that one seed is everywhere before there are two anywhere; within a seed the baselines, without
    which the other numbers cannot be read; then the grid from coarse to fine, the ends of every axis, its middle, its
    quarters, on all data sets alike; within such a level the cheapest trials first (`seconds`), which makes most cells.
    """
    rank = {seed: i for i, seed in enumerate(seeds)}
    levels = {
        (axis, repr(v)): level for axis, vs in axes.items() for v, level in zip(vs, _levels(len(vs)), strict=True)
    }

    def place(job: Job) -> tuple[int, bool, int, float]:
        # The finest of its coordinates decides, so that each level completes a whole, finer grid.
        level = max((levels.get((axis, repr(value)), 0) for axis, value in job.point.items()), default=0)
        return rank.get(job.trial.seed, len(rank)), job.role != "baseline", level, seconds(job) or 0.0

    return sorted(jobs, key=place)


def _levels(n: int) -> list[int]:
    """For each of n values in a row: 0 at the ends, 1 in the middle, 2 in the middles of both halves, and so on."""
    levels = [0] * n
    intervals = deque([(0, n - 1, 1)])
    while intervals:
        low, high, level = intervals.popleft()
        if high - low > 1:
            middle = (low + high) // 2
            levels[middle] = level
            intervals += [(low, middle, level + 1), (middle, high, level + 1)]
    return levels
