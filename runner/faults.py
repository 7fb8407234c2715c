"""How a trial can fail, and when failures mean that the whole sweep should stop."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from cplearn.errors import InputError

FailureKind = Literal["diverged", "exception", "lost", "memory"]
"""Why a trial has failed: the loss is no longer finite, the trial has raised an exception, its worker or node was lost,
memory did not suffice. The first two would happen again, so they are not retried."""


@dataclass(frozen=True)
class Policy:
    """A trial is tried again `retries` times after lost workers and lack of memory; the sweep stops after `stop_after`
    equal failures (0: never)."""

    retries: int = 3
    stop_after: int = 3

    def __post_init__(self) -> None:
        for option, number in (("--retries", self.retries), ("--stop-after", self.stop_after)):
            if number < 0:
                raise InputError(f"{option} must be at least 0, not {number}")


class Repeats:
    """Counts failures that are the same but for numbers, addresses and folders.

    Diverged trials do not count: a learning rate that is too high says nothing about the others.
    """

    def __init__(self, stop_after: int) -> None:
        self.stop_after = stop_after
        self.seen: Counter[str] = Counter()
        self.reached: str | None = None
        """The failure, as it was last seen, that has come too often."""

    def add(self, kind: FailureKind, text: str) -> None:
        if kind == "diverged":
            return
        essence = normalise(text)
        self.seen[essence] += 1
        if self.seen[essence] == self.stop_after:
            self.reached = text


def normalise(text: str) -> str:
    """A traceback without what differs from one trial to the next: hexadecimal ids, numbers, folders.

    >>> normalise("line 12 of /home/ann/loss.py: 3.5 is too large")
    'line # of loss.py: # is too large'
    """
    text = re.sub(r"(?:[\w.~-]*/)+([\w.-]+)", r"\1", text)
    text = re.sub(r"\b(?:0x)?[0-9a-f]{8,}\b", "#", text)
    return re.sub(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", "#", text)
