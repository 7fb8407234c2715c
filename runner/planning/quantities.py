"""Seconds and bytes as text for people, ranges of seconds, and when work on slots ends."""

import heapq
import math
from collections.abc import Iterable
from typing import NamedTuple


def duration(seconds: float) -> str:
    """Seconds in at most two units.

    >>> duration(42), duration(185), duration(7800)
    ('42 s', '3 min 05 s', '2 h 10 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def size(n: float) -> str:
    """Bytes in the unit that suits, with three digits.

    >>> size(512), size(1.23e9)
    ('512 bytes', '1.23 GB')
    """
    power = min(int(math.log10(max(n, 1)) // 3), 4)
    return f"{n / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"


class Interval(NamedTuple):
    """A middle value and the range in which most values lie."""

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        return f"{duration(self.middle)} ({duration(self.low)} to {duration(self.high)})"


def last_end(free: Iterable[float], seconds: Iterable[float]) -> float:
    """When the last of some jobs ends, on slots that are free at these times and then take one job after the other.

    >>> last_end([8.0, 8.0], [12.0, 12.0, 5.0])
    25.0
    """
    ends = list(free)
    heapq.heapify(ends)
    for needed in seconds:
        heapq.heapreplace(ends, ends[0] + needed)
    return max(ends)
