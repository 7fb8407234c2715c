"""What happens to jobs while a sweep runs, as told to whoever listens; and when failures end the whole sweep."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sweeps.secrets import hide_secrets

if TYPE_CHECKING:
    from runner.planning.plan import Job  # Needs torch, which a worker's node may lack.

T = TypeVar("T")

FailureKind = Literal["diverged", "exception", "lost", "memory"]
"""Why a trial has failed: the loss is no longer finite, the trial has raised an exception, its worker or node was lost,
memory did not suffice. The first two would happen again, so they are not retried."""

History = Sequence[tuple[int, int, Mapping[str, float]]]
"""Trained epochs: the epoch, when it ended (ms since 1970), its metrics."""


@dataclass(frozen=True)
class TrialResult:
    """What the evaluation of a trial gives: metrics, its files, and the tags of what it ran on.

    Files travel as bytes by relative path, because the nodes of a cluster need not share a disk.
    """

    metrics: Mapping[str, float]
    files: Mapping[str, bytes] = field(default_factory=dict)
    hardware: Mapping[str, str] = field(default_factory=dict)


class Listener:
    """Hears which jobs are planned, then of each job: started, any number of epochs, finished, failed or stopped.

    A subclass overrides what it wants to hear. A job whose worker was lost starts again, at its last checkpoint.
    """

    def planned(self, jobs: Sequence[Job]) -> None:
        """These jobs wait to be run; after an interruption some are told again."""

    def started(self, job: Job) -> None:
        """A worker has begun with the job."""

    def resumed(self, job: Job, history: History) -> None:
        """The job goes on after these epochs."""

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
        """An epoch was trained."""

    def noted(self, job: Job, text: str) -> None:
        """Something the user should know that does not end the job."""

    def finished(self, job: Job, result: TrialResult) -> None:
        """The job has a result."""

    def failed(self, job: Job, reason: str, kind: FailureKind) -> None:
        """The job has ended without a result; `reason` is a text of several lines."""

    def stopped(self, job: Job, epoch: int, reason: str, collapse: str = "", result: TrialResult | None = None) -> None:
        """A scheduler has ended the job early, after an epoch; this happens only in sweeps that have one. A job that
        was stopped on a kind of `collapse` has been evaluated as it stood: `result`, which has no files."""


class Audience:
    """All listeners of a sweep, told of each event in turn.

    `ended` has the keys of the jobs that are over. An error is kept in `error`, to be raised when all trials have
    ended: raised in the middle of Ray Tune, it would come out as an error of Tune.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self.listeners = listeners
        self.ended: set[str] = set()
        self.error: Exception | None = None

    def tell(self, event: str, *details: Any) -> None:
        """Tell of an event, a method of `Listener`, with its arguments; texts, which may quote a library, without
        secrets."""
        details = tuple(hide_secrets(detail) if isinstance(detail, str) else detail for detail in details)
        if event in ("finished", "failed", "stopped"):
            self.ended.add(details[0].key)
        for listener in self.listeners:
            self.guarded(functools.partial(getattr(listener, event), *details))

    def guarded(self, call: Callable[[], T]) -> T | None:
        """What `call` returns; None if it raises, with the first error kept."""
        try:
            return call()
        except Exception as error:
            self.error = self.error or error
            return None


def normalise(text: str) -> str:
    """A traceback without what differs from one trial to the next: hexadecimal ids, numbers, folders.

    >>> normalise("line 12 of /home/ann/loss.py: 3.5 is too large")
    'line # of loss.py: # is too large'
    """
    text = re.sub(r"(?:[\w.~-]*/)+([\w.-]+)", r"\1", text)
    text = re.sub(r"\b(?:0x)?[0-9a-f]{8,}\b", "#", text)
    return re.sub(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", "#", text)
