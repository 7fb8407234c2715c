"""What has become of the trials of a running sweep, and how long the others will take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runner.events import Listener
from runner.faults import FailureKind
from runner.planning.plan import Job

if TYPE_CHECKING:
    from runner.timing import ProgressEstimate


@dataclass(frozen=True)
class Failure:
    """A trial that has no result, the text of its error, and the kind of it."""

    job: Job
    reason: str
    kind: FailureKind

    def __str__(self) -> str:
        return f"{self.job.dataset} {self.job.name} (key {self.job.key})"


class Tally(Listener):
    """Counts trials by what has become of them, and keeps the estimate of the time that is left up to date.

    `reused` trials had finished before. `to_come` says how many jobs a search may still suggest.
    """

    def __init__(
        self, jobs: Iterable[Job], reused: int, estimate: ProgressEstimate, to_come: Callable[[], int]
    ) -> None:
        self.keys = {job.key for job in jobs}
        self.reused, self.estimate, self.to_come = reused, estimate, to_come
        self.running: dict[str, Job] = {}
        self.done: list[Job] = []
        self.early: list[Job] = []
        self.failures: list[Failure] = []

    @property
    def total(self) -> int:
        """Trials of this call, as far as it is known yet."""
        return len(self.keys) + self.to_come()

    @property
    def ended(self) -> int:
        return len(self.done) + len(self.early) + len(self.failures)

    @property
    def left(self) -> int:
        """Trials that have not ended."""
        return self.total - self.ended

    # Events of jobs.

    def planned(self, jobs: Sequence[Job]) -> None:
        self.estimate.planned(jobs)
        self.keys |= {job.key for job in jobs}

    def started(self, job: Job) -> None:
        self.estimate.started(job)
        self.running[job.key] = job

    def resumed(self, job: Job, history: Sequence[tuple[int, int, Mapping[str, float]]]) -> None:
        self.estimate.resumed(job, history[-1][0])

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
        self.estimate.epoch(job, epoch)

    def finished(
        self, job: Job, metrics: Mapping[str, float], files: Mapping[str, bytes], hardware: Mapping[str, str]
    ) -> None:
        self._end(job)
        self.done.append(job)

    def failed(self, job: Job, reason: str, kind: FailureKind) -> None:
        self._end(job, failed=True)
        self.failures.append(Failure(job, reason, kind))

    def stopped(self, job: Job, epoch: int, reason: str) -> None:
        self._end(job, failed=True)
        self.early.append(job)

    def _end(self, job: Job, *, failed: bool = False) -> None:
        self.running.pop(job.key, None)
        self.estimate.ended(job, failed=failed)
