"""What Ray Tune reports of its trials, as events of jobs; and what follows from faults."""

from __future__ import annotations

import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from runner.events import Audience
from runner.execution.contract import REPORT, Problem, Steering, StepReport
from runner.execution.dispatch import Dispatcher
from runner.execution.nodes import Nodes
from runner.faults import FailureKind, Policy, Repeats
from runner.planning.plan import Job

LOOK_SECONDS = 5.0
"""How often a driver makes sure that its own Ray is alive, and calls `Steering.keep_alive`."""


class TuneCallbacks(tune.Callback):
    """Tune's callbacks: they tell the listeners, and decide what follows from a fault.

    Two faults interrupt all trials, which then go on in a further call of Tune. `node_left_out`: trials must be placed
    anew, or the unfit node would take one after the other, being the first to be free. `ray_died`: the node of a Ray
    that the driver has started itself is dead, and Tune would wait for another one for ever.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        audience: Audience,
        policy: Policy,
        repeats: Repeats,
        nodes: Nodes,
        steering: Steering,
    ) -> None:
        self.dispatcher, self.audience, self.policy, self.repeats = dispatcher, audience, policy, repeats
        self.nodes, self.steering = nodes, steering
        self.node_left_out = self.ray_died = False
        self.losses: Counter[str] = Counter()
        """How often each job was lost in a way that Tune does not count: while it started, or with the driver's Ray."""
        self.looked = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles callbacks for `Tuner.restore`. What is missing is computed anew here, never restored.
        return {}

    @property
    def interrupted(self) -> bool:
        """Whether trials were ended that can go on."""
        return self.node_left_out or self.ray_died

    def ends_sweep(self) -> bool:
        """Whether all trials end now."""
        if time.monotonic() - self.looked > LOOK_SECONDS:
            self.looked = time.monotonic()
            self.ray_died = not self.nodes.driver and not self.nodes.alive()
            self.audience.guarded(self.steering.keep_alive)
        return self.repeats.reached is not None or self.audience.error is not None or self.interrupted

    def resume(self) -> None:
        """Let the interrupted jobs wait again; those whose Ray has died too often have failed."""
        back = self.dispatcher.take_back()
        for job in back if self.ray_died else ():
            self.losses[job.key] += 1
            if self.losses[job.key] <= self.policy.retries:
                self.audience.tell("noted", job, "Ray's node on this machine has died; it is started again")
            else:
                self.dispatcher.waiting.remove(job)
                self._fail(job, "Ray's node on this machine has died again and again", "lost")
        self.node_left_out = self.ray_died = False

    def stops_early(self, trial: TuneTrial, report: StepReport | None) -> bool:
        """Whether the sweep's scheduler stops a job after this report; raises InputError where the job does not log the
        metric that counts."""
        asha = self.steering.asha
        if asha is None or report is None:
            return False
        job, name = self.dispatcher.job(trial), asha.settings.metric
        asha.remember(job, {epoch: metrics[name] for epoch, _, metrics in report.history if name in metrics})
        return bool(report.metrics) and asha.stops(job, report.epoch, report.metrics)

    # What Tune calls.

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        job = self.dispatcher.job(trial)
        for text in self.nodes.news():
            self.audience.tell("noted", job, text)
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
        asha = self.steering.asha
        if asha and report.metrics and job.key in asha.stopped:
            tell("stopped", job, report.epoch, asha.why(job))
        if report.result and report.result.failure:
            self._fail(job, report.result.failure, "diverged")
        elif report.result:
            tell("finished", job, report.result.metrics, report.result.files, report.hardware)
        if report.problem:
            self._solve(job, report.problem)

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        # Tune keeps every trial until the end, with a history of every number: the driver would grow with each.
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        why = "memory did not suffice" if _lost_kind(_reason(trial)) == "memory" else "the worker was lost"
        text = f"{why}; it goes on from its last checkpoint (retry {trial.num_failures} of {self.policy.retries})"
        self.audience.tell("noted", self.dispatcher.job(trial), text)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        job = self.dispatcher.job(trial)
        if job.key in self.audience.ended:
            return
        reason = _reason(trial)
        self.losses[job.key] += 1
        if trial.num_failures <= self.policy.retries and self.losses[job.key] <= self.policy.retries:
            self.audience.tell("noted", job, "the worker was lost as it started; it is tried again")
            self.dispatcher.add([job])
        else:
            self._fail(job, reason, _lost_kind(reason))

    def _solve(self, job: Job, problem: Problem) -> None:
        if problem.kind == "unfit":
            self.nodes.leave_out(problem.node, problem.text)
            self.node_left_out = True
        else:
            self._fail(job, _tidy(problem.text), problem.kind)

    def _fail(self, job: Job, reason: str, kind: FailureKind) -> None:
        self.repeats.add(kind, reason)
        self.audience.tell("failed", job, reason, kind)


def _lost_kind(reason: str) -> FailureKind:
    """Why Tune lost a worker: it raised for lack of memory, Ray ended it for that, or it has simply gone."""
    return "memory" if "MemoryError" in reason or "OutOfMemory" in reason else "lost"


def _reason(trial: TuneTrial) -> str:
    """The traceback of a failed trial as the worker saw it."""
    # Tune has written it to the driver's disk by now, and copies it to the experiment's storage later.
    path = Path(trial.error_file) if trial.error_file else None
    return _tidy(path.read_text(errors="replace") if path and path.is_file() else "the worker was lost")


def _tidy(text: str) -> str:
    # Terminal colours and squiggles under the source lines do not belong into a tracking store.
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines()
    return "\n".join(line for line in lines if line.strip(" ^~"))
