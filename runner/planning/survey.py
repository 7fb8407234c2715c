"""Which trials of a plan have finished, can go on, or are new: their states, and how far searches are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runner.planning.plan import Job
from sweeps.record import LEFT_ALONE, TrialRecord, TrialState, state_of


@dataclass(frozen=True)
class Surveyed:
    """A job, its state in the store, and a word on it: the sweep it is reused from, the end of a failure's message."""

    job: Job
    state: TrialState
    detail: str

    @property
    def is_left(self) -> bool:
        """Whether the trial is still to be run."""
        return self.state not in LEFT_ALONE


@dataclass(frozen=True)
class Searched:
    """How far the search on a data set is: `done` of its suggestions have ended, `asked` are known, of `trials`."""

    dataset: str
    study: str
    trials: int
    asked: int
    done: int

    def __str__(self) -> str:
        known = f"study {self.study}: {self.done} done" if self.study else "no study yet"
        begun = f", {self.asked - self.done} begun" if self.asked > self.done else ""
        return (
            f"Search on {self.dataset}: {self.trials} trials in all ({known}{begun}); "
            f"{max(0, self.trials - self.asked)} are still to be suggested."
        )


def survey(
    jobs: Sequence[Job],
    records: Mapping[str, TrialRecord],
    reached: Mapping[str, int],
    *,
    force: bool = False,
    retry_failed: bool = False,
    stopper: str = "",
) -> list[Surveyed]:
    """Each job with its state (see `sweeps.record.state_of`), from the records and the epochs of checkpoints by key."""

    surveyed = []
    for job in jobs:
        record, epoch = records.get(job.key), reached.get(job.key)
        state = state_of(record, force=force, retry_failed=retry_failed, stopper=stopper, reached=epoch)
        surveyed.append(Surveyed(job, state, _detail(job, state, record, epoch)))
    return surveyed


def _detail(job: Job, state: TrialState, record: TrialRecord | None, epoch: int | None) -> str:
    if state == "resumable":
        return f"at epoch {epoch} of {job.trial.epochs}"
    if record is None or state == "new":
        return ""
    if state == "reused":
        return f"from {record.sweep}"
    if state == "stopped":
        return "early, by this sweep's scheduler"
    if state == "running":
        return f"in {record.sweep} since {record.started}, or lost"
    return (record.error.strip().splitlines() or ["without a message"])[-1]
