"""Seconds and bytes as text for people."""

from __future__ import annotations

import math


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
