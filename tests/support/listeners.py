"""A listener to a sweep that notes what it is told."""

from __future__ import annotations

from collections.abc import Mapping

from runner.events import FailureKind, Listener, TrialResult
from runner.planning.plan import Job


class Recorder(Listener):
    """Notes metrics by epoch and at the end, failures and sentences, by the label of the job."""

    def __init__(self) -> None:
        self.logged: dict[tuple[str, int], dict[str, float]] = {}
        self.final: dict[str, dict[str, float]] = {}
        self.reasons: dict[str, str] = {}
        self.kinds: dict[str, FailureKind] = {}
        self.notes: list[str] = []

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
        self.logged[job.label, epoch] = {name: value for name, value in metrics.items() if "second" not in name}

    def noted(self, job: Job, text: str) -> None:
        self.notes.append(text)

    def finished(self, job: Job, result: TrialResult) -> None:
        self.final[job.label] = {name: value for name, value in result.metrics.items() if not name.startswith("time/")}

    def failed(self, job: Job, reason: str, kind: FailureKind) -> None:
        self.reasons[job.label], self.kinds[job.label] = reason, kind
