"""Taking turns, and what is said about the numbers: medians, spread, ratios, goals and exponents."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Goal:
    """A bound on a ratio, or on the median of seconds."""

    sense: Literal["at least", "at most"]
    bound: float

    def met(self, value: float) -> bool:
        """Whether the bound holds for `value`; never for NaN."""
        return value >= self.bound if self.sense == "at least" else value <= self.bound

    def judged(self, value: float) -> dict[str, Any]:
        """The goal as it is written to the report."""
        return {"sense": self.sense, "bound": self.bound, "met": self.met(value)}


@dataclass(frozen=True)
class Pair:
    """Two sides that took turns; the ratio is the first side over the second, turn by turn and of the medians.

    `first` and `second` are the numbers in the order in which they were taken. Where one side had more turns, the ratio
    of the medians uses the turns that both had. Raises ValueError if a side has no number.
    """

    label: str
    unit: str
    names: tuple[str, str]
    first: Sequence[float]
    second: Sequence[float]
    goal: Goal | None = None

    def __post_init__(self) -> None:
        if not self.first or not self.second:
            raise ValueError(f"{self.label}: a side without numbers cannot be compared")

    def ratios(self) -> list[float]:
        """One ratio a turn."""
        return [a / b for a, b in zip(self.first, self.second, strict=False)]

    def ratio(self) -> float:
        """The ratio of the two medians, over the turns that both sides had."""
        turns = len(self.ratios())
        return statistics.median(self.first[:turns]) / statistics.median(self.second[:turns])

    def document(self) -> dict[str, Any]:
        return {
            "kind": "pair",
            "label": self.label,
            "unit": self.unit,
            "sides": [
                {"name": name, **summary(values)}
                for name, values in zip(self.names, (self.first, self.second), strict=True)
            ],
            "ratio": {"of_medians": self.ratio(), "by_turn": summary(self.ratios())},
            "goal": self.goal.judged(self.ratio()) if self.goal else None,
        }


@dataclass(frozen=True)
class Measured:
    """One quantity by itself; the goal is a bound on its median."""

    label: str
    unit: str
    values: Sequence[float]
    goal: Goal | None = None

    def document(self) -> dict[str, Any]:
        found = summary(self.values)
        return {
            "kind": "measured",
            "label": self.label,
            "unit": self.unit,
            **found,
            "goal": self.goal.judged(found["median"]) if self.goal else None,
        }


@dataclass(frozen=True)
class Growth:
    """Seconds at several sizes of one quantity, and the exponent of the power law through their medians."""

    label: str
    sizes: Sequence[int]
    seconds: Sequence[Sequence[float]]

    def document(self) -> dict[str, Any]:
        points = [{"size": size, **summary(values)} for size, values in zip(self.sizes, self.seconds, strict=True)]
        medians = [point["median"] for point in points]
        return {
            "kind": "growth",
            "label": self.label,
            "unit": "s",
            "points": points,
            "exponent": exponent(self.sizes, medians),
            "last_exponent": exponent(self.sizes[-2:], medians[-2:]),
            "goal": None,
        }


@dataclass(frozen=True)
class Part:
    """One part of the benchmark: how it was measured, and its rows; or the reason why it has none."""

    title: str
    method: str
    rows: Sequence[Pair | Measured | Growth] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    skipped: str | None = None
    failed: str | None = None

    def document(self, judge: bool = True) -> dict[str, Any]:
        """Plain data for JSON, from which `benchmarks.render` writes the markdown; goals only if they are judged."""
        return {
            "title": self.title,
            "method": self.method,
            "rows": [row.document() | ({} if judge else {"goal": None}) for row in self.rows],
            "notes": list(self.notes),
            "skipped": self.skipped,
            "failed": self.failed,
        }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """The numbers with their median, least and greatest."""
    return {"values": list(values), "median": statistics.median(values), "min": min(values), "max": max(values)}


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The exponent a of the least-squares power law cost = k * size^a, a line in logarithms.

    Raises ValueError for fewer than two different sizes, or for numbers that are not positive.
    """
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    if len(set(xs)) < 2:
        raise ValueError("an exponent needs two sizes or more")
    return statistics.linear_regression(xs, ys).slope


def alternate(sides: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Let the sides take turns, A B A B; each call returns the number it has measured.

    What else the machine does then falls on all sides alike. A side that needs a first call that does not count makes
    it beforehand.
    """
    numbers: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            numbers[name].append(side())
    return numbers


def seconds(call: Callable[[], object], calls: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """Mean seconds of one of `calls` calls in a row."""
    start = clock()
    for _ in range(calls):
        call()
    return (clock() - start) / calls


def calls_lasting(call: Callable[[], object], duration: float) -> int:
    """How many calls in a row take about `duration` seconds, at least one; the first call warms up."""
    first = seconds(call)
    return 1 if first > 5 * duration else max(1, math.ceil(duration / max(seconds(call), 1e-9)))
