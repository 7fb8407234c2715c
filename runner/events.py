"""What happens to jobs while a sweep runs, as told to whoever listens: the tracker and the display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from runner.plan import Job


class Listener(Protocol):
    """Told once how the jobs were packed, then of each job: started, any number of epochs, finished or failed."""

    def planned(self, packs: Sequence[Sequence[Job]]) -> None: ...

    def started(self, job: Job) -> None: ...

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None: ...

    def finished(
        self, job: Job, metrics: Mapping[str, float], files: Mapping[str, bytes], hardware: Mapping[str, str]
    ) -> None: ...

    def failed(self, job: Job, reason: str) -> None: ...
