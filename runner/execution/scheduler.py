"""Early stopping: of what falls behind, by Ray Tune's ASHA in terms of jobs and of what earlier calls have seen; and of
what has collapsed, by a rule that the worker applies, since it evaluates the trial then."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from cplearn.errors import InputError
from runner.planning.plan import Job
from sweeps.collapse import StopRule
from sweeps.file import AshaSettings, CollapseSettings, SchedulerSettings
from sweeps.record import BASELINE


def stop_rule(settings: SchedulerSettings | None, job: Job) -> StopRule | None:
    """When a job is stopped on collapse; None: never, as baselines and what learns from labels."""
    if not isinstance(settings, CollapseSettings) or job.role == BASELINE or job.sizes is None:
        return None
    return StopRule(settings.kinds, settings.patience, settings.grace, job.trial.epochs, job.sizes)


class Asha:
    """Stops jobs that are not among the best of those that have reached the same rung before; never baselines.

    Tune's own ASHA decides. It compares all trials that it is told of, and forgets them when the process ends. So there
    is one for each data set and seed, and `remember` tells it of epochs that were trained before. `stopped` has the
    epoch after which each job was stopped, by key.
    """

    def __init__(self, settings: AshaSettings) -> None:
        self.settings = settings
        self.groups: dict[tuple[str, int], ASHAScheduler] = {}
        self.stopped: dict[str, int] = {}

    def rungs(self, job: Job) -> list[int]:
        """The epochs after which a job can be stopped."""
        return [] if job.role == "baseline" else self.settings.rungs(job.trial.epochs)

    def remember(self, job: Job, history: Mapping[int, float]) -> None:
        """Enter what a job has reached before, metric by epoch; nothing is decided anew."""
        for epoch, value in sorted(history.items()):
            self._enter(job, epoch, value)

    def stops(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> bool:
        """Whether a job is to stop after this epoch, with these metrics.

        Raises InputError if the one that counts is not among them.
        """
        if not self.rungs(job):
            return False
        value = metrics.get(self.settings.metric)
        if value is None:
            raise InputError(
                f"scheduler.metric {self.settings.metric!r} is not logged by method {job.trial.method.name!r}; after "
                f"each epoch there are: {', '.join(sorted(metrics))}"
            )
        if self._enter(job, epoch, value):
            self.stopped[job.key] = epoch
        return job.key in self.stopped

    def why(self, job: Job) -> str:
        """A sentence on a job that was stopped; tables give it once for all jobs of which it holds."""
        return f"stopped early by {self.settings.name} after epoch {self.stopped[job.key]} of {job.trial.epochs}"

    def _enter(self, job: Job, epoch: int, value: float) -> bool:
        """Whether ASHA would stop a job with this value after an epoch; the last one is not worth stopping at."""
        if not self.rungs(job) or epoch >= job.trial.epochs:
            return False
        settings, group = self.settings, (job.dataset, job.trial.seed)
        if group not in self.groups:
            self.groups[group] = ASHAScheduler(
                time_attr="epoch",
                metric=settings.metric,
                mode=settings.mode,
                # Trials end by themselves; this only bounds the rungs, of which one that is too many does no harm.
                max_t=10**6,
                grace_period=settings.grace,
                reduction_factor=settings.reduction,
                stop_last_trials=False,
            )
        # All that ASHA looks at. The id is the job's key, so that a trial that starts again is the same.
        trial: Any = SimpleNamespace(trial_id=job.key)
        self.groups[group].on_trial_add(None, trial)
        decision = self.groups[group].on_trial_result(None, trial, {"epoch": epoch, settings.metric: value})
        return bool(decision == TrialScheduler.STOP)
