"""What Ray Tune asks while a sweep runs: which job is next, whether a trial stops early, whether all of them end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler

from runner.events import Audience
from runner.execution.contract import REPORT, REQUEST, Steering, TrialRequest
from runner.planning.plan import Job

if TYPE_CHECKING:
    from runner.execution.tune_callbacks import TuneCallbacks


class Dispatcher(tune.search.Searcher):
    """Hands out waiting jobs, the first that is admitted; where none waits, it asks the steering for a further one.

    It hands out one job more than there are slots. With a job waiting, Tune passes a free worker on to it; without,
    Tune would end the worker and start another. But the steering is asked for no more jobs than the slots can run, so
    that a search has seen every result there is.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        slots: int,
        request: Callable[[Job], TrialRequest],
        audience: Audience,
        steering: Steering,
    ) -> None:
        super().__init__()
        self.slots, self.request, self.audience, self.steering = slots, request, audience, steering
        self.jobs: dict[str, Job] = {}
        self.waiting: list[Job] = []
        self.running: set[str] = set()
        """Ids of the Tune trials that have been handed out and have not ended."""
        self.add(jobs)

    def add(self, jobs: Iterable[Job]) -> None:
        """Let jobs wait, after those that wait already."""
        for job in jobs:
            self.jobs[job.key] = job
            self.waiting.append(job)

    def take_back(self) -> list[Job]:
        """Let jobs that have been handed out and have not ended wait again, ahead of the others; returns them."""
        elsewhere = self.audience.ended | {job.key for job in self.waiting}
        back = [job for key, job in self.jobs.items() if key not in elsewhere]
        self.waiting = back + self.waiting
        self.running.clear()
        return back

    def job(self, trial: TuneTrial) -> Job:
        """The job of a Tune trial."""
        return self.jobs[trial.config[REQUEST]["key"]]

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if len(self.running) > self.slots:
            return None
        if not self.waiting and len(self.running) < self.slots:
            job = self.audience.guarded(self.steering.next_job)
            if job:
                self.add([job])
                self.audience.planned([job])
        for job in self.waiting:
            if self.audience.guarded(lambda job=job: self.steering.admits(job)):  # type: ignore[misc]
                self.waiting.remove(job)
                self.running.add(trial_id)
                return {REQUEST: self.request(job).to_dict()}
        return None if self.running else self.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.running.discard(trial_id)

    # Tune saves its searchers for `Tuner.restore`. What is missing is computed anew here, so there is no state to keep.

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def get_state(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class EarlyStopper(FIFOScheduler):
    """Tune's way to ask whether a trial stops after an epoch; the sweep's `Asha` decides, if there is one."""

    def __init__(self, callbacks: TuneCallbacks) -> None:
        super().__init__()
        self.callbacks = callbacks

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        stops = self.callbacks.audience.guarded(lambda: self.callbacks.stops_early(trial, result.get(REPORT)))
        return self.STOP if stops else self.CONTINUE

    def __getstate__(self) -> dict[str, Any]:
        return {}


class SweepStopper(tune.Stopper):
    """Tune's way to ask whether all trials end now."""

    def __init__(self, callbacks: TuneCallbacks) -> None:
        self.callbacks = callbacks

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.callbacks.ends_sweep()

    def __getstate__(self) -> dict[str, Any]:
        return {}
