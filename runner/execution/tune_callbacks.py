"""What Ray Tune asks while a sweep runs: which job is next, what ends early; and what it reports, as events of jobs."""

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from cplearn.errors import InputError
from runner.events import Audience, FailureKind, normalise
from runner.execution.contract import REPORT, REQUEST, ExecutionOptions, Steering, StepReport, TrialRequest
from runner.execution.nodes import Nodes
from runner.execution.session import is_stopped, processes
from runner.planning.plan import Job
from sweeps.file import AshaSettings

LOOK_SECONDS = 5.0
"""How often a driver makes sure that its own Ray is alive, and calls `Steering.keep_alive`. Ray ends a driver 60 s
after its GCS has died."""


class RayLost(BaseException):
    """The Ray that the driver has started is dead. No Exception: at one Tune cleans up, and waits for Ray to do it."""


class _Stateless:
    """Tune pickles its helpers for `Tuner.restore`; here what is missing is computed anew, so they have no state."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Dispatcher(_Stateless, tune.search.Searcher):
    """Hands out waiting jobs, the first that is admitted; where none waits, it asks the steering for a further one.

    It hands out one job more than there are slots. With a job waiting, Tune passes a free worker on to it; without,
    Tune would end the worker and start another. But the steering is asked for no more jobs than the slots can run, so
    that a search has seen every result there is.
    """

    def __init__(
        self, jobs: Sequence[Job], options: ExecutionOptions, nodes: Nodes, audience: Audience, steering: Steering
    ) -> None:
        super().__init__()
        self.options, self.nodes, self.audience, self.steering = options, nodes, audience, steering
        self.jobs = {job.key: job for job in jobs}
        self.waiting = list(jobs)
        self.running: dict[str, Job] = {}
        """The jobs that have been handed out and have not ended, by the ids of their Tune trials."""

    def add(self, job: Job) -> None:
        """Let a job wait, after those that wait already."""
        self.jobs[job.key] = job
        self.waiting.append(job)

    def take_back(self) -> list[Job]:
        """Let jobs that have been handed out and have not ended wait again, ahead of the others; returns them."""
        elsewhere = self.audience.ended | {job.key for job in self.waiting}
        back = [job for key, job in self.jobs.items() if key not in elsewhere]
        self.waiting, self.running = back + self.waiting, {}
        return back

    def job(self, trial: TuneTrial) -> Job:
        """The job of a Tune trial."""
        return self.jobs[trial.config[REQUEST].key]

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if len(self.running) > self.nodes.slots:
            return None
        if not self.waiting and len(self.running) < self.nodes.slots:
            job = self.audience.guarded(self.steering.next_job)
            if job:
                self.add(job)
                self.audience.tell("planned", [job])
        for job in self.waiting:
            if self.audience.guarded(lambda job=job: self.steering.admits(job)):  # type: ignore[misc]
                self.waiting.remove(job)
                self.running[trial_id] = job
                data = [(job.trial.dataset, job.fingerprint), *job.transfer]
                rungs = self.steering.asha.rungs(job) if self.steering.asha else []
                settings, code, driver = job.trial.canonical(), job.trial.code_from_outside(), self.nodes.driver
                request = TrialRequest(job.key, settings, data, code, self.options, rungs, job.stop_rule, driver)
                return {REQUEST: request}
        return None if self.running else self.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.running.pop(trial_id, None)

    def save(self, checkpoint_path: str) -> None:
        pass


class TuneCallbacks(_Stateless, tune.Callback, tune.Stopper):
    """Tune's callbacks: they tell the listeners, and decide what follows from a fault.

    Two faults interrupt all trials, which then go on in a further call of Tune. `node_left_out`: trials must be placed
    anew, or the unfit node would take one after the other, being the first to be free. `ray_lost` says in a few words
    what has become of the Ray that the driver has started; Tune would wait for another node for ever, and for the
    cluster's store (GCS) until Ray ends the driver. It is left by `RayLost`.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher, self.nodes = dispatcher, dispatcher.nodes
        self.audience, self.steering = dispatcher.audience, dispatcher.steering
        self.failures: Counter[str] = Counter()
        self.repeated: str | None = None  # The failure, as it was last seen, that has come too often.
        self.node_left_out, self.ray_lost = False, ""
        self.stopped: set[str] = set()
        """The processes of the driver's own Ray that were stopped by a signal at the last look."""
        self.losses: Counter[str] = Counter()  # How often each job has lost its worker, or the driver's Ray.
        self.looked = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether a trial stops after an epoch; the sweep's `Asha` decides, if there is one."""
        return bool(self.audience.guarded(lambda: self._stops(trial_id, result.get(REPORT))))

    def _stops(self, trial_id: str, report: StepReport | None) -> bool:
        asha, job = self.steering.asha, self.dispatcher.running.get(trial_id)
        if asha is None or job is None or report is None:
            return False
        name = asha.settings.metric
        asha.remember(job, {epoch: metrics[name] for epoch, _, metrics in report.history if name in metrics})
        return bool(report.metrics) and asha.stops(job, report.epoch, report.metrics)

    def stop_all(self) -> bool:
        """Whether all trials end now."""
        if time.monotonic() - self.looked > LOOK_SECONDS:
            self.looked = time.monotonic()
            self.audience.guarded(self.steering.keep_alive)
            if not self.nodes.driver and (lost := self._look()):
                self.ray_lost = lost
                raise RayLost
        return self.repeated is not None or self.audience.error is not None or self.interrupted

    def _look(self) -> str:
        """What has become of the driver's own Ray; empty if it is alive. A process that is stopped at two looks is
        ended; at one alone it may be about to go on with the driver, after Ctrl-Z."""
        ours = processes()
        for name, process in ours.items():
            if process.poll() is not None:
                return f"{name} has died"
        stopped = {name for name, process in ours.items() if is_stopped(process)}
        for name in stopped & self.stopped:
            ours[name].kill()
            return f"{name} was stopped by a signal"
        self.stopped = stopped
        # The raylet is asked by the store, which must not be asked itself while it is stopped.
        return "" if stopped or self.nodes.alive() else "raylet does not answer"

    @property
    def interrupted(self) -> bool:
        """Whether trials were ended that can go on."""
        return self.node_left_out or bool(self.ray_lost)

    def resume(self) -> None:
        """Let the interrupted jobs wait again; those whose Ray has died too often have failed."""
        back = self.dispatcher.take_back()
        for job in back if self.ray_lost else ():
            what = f"Ray's {self.ray_lost}"
            if not self._is_tried_again(job, f"{what}; Ray is started again"):
                self.dispatcher.waiting.remove(job)
                self._fail(job, f"{what}, again and again", "lost")
        self.node_left_out, self.ray_lost, self.stopped = False, "", set()

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        job = self.dispatcher.job(trial)
        while self.nodes.unreported:
            self.audience.tell("noted", job, self.nodes.unreported.pop(0))
        self.audience.tell("started", job)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        job, tell = self.dispatcher.job(trial), self.audience.tell
        # Taken out, because Tune keeps what stays in a result.
        report: StepReport = result.pop(REPORT)
        for text in report.notes:
            tell("noted", job, text)
        if report.history:
            tell("resumed", job, report.history)
        if report.metrics:
            tell("epoch", job, report.epoch, report.metrics)
        asha, problem = self.steering.asha, report.problem
        if asha and report.metrics and job.key in asha.stopped:
            tell("stopped", job, report.epoch, asha.why(job))
        if report.verdict:
            tell("stopped", job, report.epoch, report.verdict.text, report.verdict.kind, report.result)
        elif report.result:
            tell("finished", job, report.result)
        if problem is None:
            return
        if problem.kind == "unfit":
            self.nodes.leave_out(problem.node, problem.text)
            self.node_left_out = True
        else:
            self._fail(job, _tidy(problem.text), problem.kind)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        # Tune keeps every trial until the end, with a history of every number: the driver would grow with each.
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A worker was lost: it raised for lack of memory, Ray ended it for that, or it has simply gone."""
        job = self.dispatcher.job(trial)
        if job.key in self.audience.ended:
            return
        # Tune has written the worker's traceback to the driver's disk by now, and to the experiment's storage later.
        path = Path(trial.error_file) if trial.error_file else None
        reason = path.read_text(errors="replace") if path and path.is_file() else "the worker was lost"
        kind: FailureKind = "memory" if "MemoryError" in reason or "OutOfMemory" in reason else "lost"
        why = "memory did not suffice" if kind == "memory" else "the worker was lost"
        retry = f"retry {self.losses[job.key] + 1} of {self.dispatcher.options.retries}"
        if self._is_tried_again(job, f"{why}; it goes on from its last checkpoint ({retry})"):
            self.dispatcher.waiting.insert(0, job)
        else:
            self._fail(job, _tidy(reason), kind)

    def _is_tried_again(self, job: Job, note: str) -> bool:
        """Whether a job that was lost once more is to be run again; if so, a note says it."""
        self.losses[job.key] += 1
        if self.losses[job.key] > self.dispatcher.options.retries:
            return False
        self.audience.tell("noted", job, note)
        return True

    def _fail(self, job: Job, reason: str, kind: FailureKind) -> None:
        """Count failures that are the same but for numbers, addresses and folders; not diverged trials, because a
        learning rate that is too high says nothing about the others."""
        if kind != "diverged":
            self.failures[normalise(reason)] += 1
            if self.failures[normalise(reason)] == self.dispatcher.options.stop_after:
                self.repeated = reason
        self.audience.tell("failed", job, reason, kind)


def _tidy(text: str) -> str:
    # Terminal colours and squiggles under the source lines do not belong into a tracking store.
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines()
    return "\n".join(line for line in lines if line.strip(" ^~"))


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
