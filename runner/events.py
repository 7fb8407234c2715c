"""What happens to jobs while a sweep runs, as told to whoever listens: the tracker and the display."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from runner.faults import FailureKind
from runner.planning.plan import Job

T = TypeVar("T")


class Listener:
    """Hears which jobs are planned, then of each job: started, any number of epochs, finished, failed or stopped.

    This one does nothing; a subclass overrides what it wants to hear. A job whose worker was lost starts again, and its
    epochs go back to those of its last checkpoint.
    """

    def planned(self, jobs: Sequence[Job]) -> None:
        """These jobs wait to be run. A search plans further ones later; after an interruption some are told again."""

    def started(self, job: Job) -> None:
        """A worker has begun with the job."""

    def resumed(self, job: Job, history: Sequence[tuple[int, int, Mapping[str, float]]]) -> None:
        """The job goes on after the epochs in `history`: epoch, when it ended (ms since 1970), metrics."""

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
        """An epoch was trained."""

    def noted(self, job: Job, text: str) -> None:
        """Something the user should know that does not end the job."""

    def finished(
        self, job: Job, metrics: Mapping[str, float], files: Mapping[str, bytes], hardware: Mapping[str, str]
    ) -> None:
        """The job has a result: its final metrics, its files by relative path, the tags of what it ran on."""

    def failed(self, job: Job, reason: str, kind: FailureKind) -> None:
        """The job has ended without a result; `reason` is a text of several lines."""

    def stopped(self, job: Job, epoch: int, reason: str) -> None:
        """A scheduler has ended the job early, after an epoch; this happens only in sweeps that have one."""


class Audience:
    """All listeners of a sweep, told of each event in turn.

    `ended` has the keys of the jobs that are over. An error is kept in `error`, to be raised when all trials have
    ended: raised in the middle of Ray Tune, it would come out as an error of Tune.
    """

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self.listeners = listeners
        self.ended: set[str] = set()
        self.error: Exception | None = None

    def planned(self, jobs: Sequence[Job]) -> None:
        """Tell of jobs that wait to be run."""
        for listener in self.listeners:
            self.guarded(lambda listener=listener: listener.planned(jobs))  # type: ignore[misc]

    def tell(self, event: str, job: Job, *details: Any) -> None:
        """Tell of an event of a job, a method of `Listener`."""
        if event in ("finished", "failed", "stopped"):
            self.ended.add(job.key)
        for listener in self.listeners:
            self.guarded(lambda listener=listener: getattr(listener, event)(job, *details))  # type: ignore[misc]

    def guarded(self, call: Callable[[], T]) -> T | None:
        """What `call` returns; None if it raises, with the first error kept."""
        try:
            return call()
        except Exception as error:
            self.error = self.error or error
            return None
