"""What happens to jobs while a sweep runs, as told to whoever listens: the tracker and the display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from runner.faults import Kind
from runner.planning.plan import Job


class Listener(Protocol):
    """Told how the jobs were packed, then of each job: started, any number of epochs, finished, failed or stopped.

    A job whose worker was lost starts again, and its epochs go back to those of its last checkpoint. A pack that has to
    be divided is told as `planned` anew, in its parts.
    """

    def planned(self, packs: Sequence[Sequence[Job]]) -> None: ...

    def started(self, job: Job) -> None: ...

    def resumed(self, job: Job, history: Sequence[tuple[int, int, Mapping[str, float]]]) -> None:
        """The job goes on after the epochs in `history`: epoch, when it ended (ms since 1970), metrics."""

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None: ...

    def noted(self, job: Job, text: str) -> None:
        """Something the user should know that does not end the job."""

    def finished(
        self, job: Job, metrics: Mapping[str, float], files: Mapping[str, bytes], hardware: Mapping[str, str]
    ) -> None: ...

    def failed(self, job: Job, reason: str, kind: Kind) -> None: ...

    def stopped(self, job: Job, epoch: int, reason: str) -> None:
        """A scheduler has ended the job early, after an epoch; only sweeps that have one tell this."""
