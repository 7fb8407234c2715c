"""What Ray Tune reports of packs, as events of single jobs; and what follows: to try again, to divide, to give up."""

from __future__ import annotations

import functools
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from runner.events import Listener
from runner.execution.nodes import Nodes
from runner.execution.scheduler import Asha
from runner.faults import Kind, Policy, Repeats
from runner.planning.plan import Job

T = TypeVar("T")

LOOK_SECONDS = 5.0
"""How often a driver makes sure that the Ray it has started is alive, and that its claims are."""


class Bridge(tune.Callback):
    """Tune's callbacks, translated into events of single jobs.

    `again` collects what should be run in another round: the parts of packs that failed as a whole, and packs whose
    worker was lost before it came to life, which Tune does not retry. `broken` is the error of a listener. `reduced`
    says that a node has been left out: trials must be placed anew, or it would take one after the other, being the
    first to be free. `deserted` says that the node of a Ray that the driver has started itself is dead: Tune would wait
    for another one for ever.
    """

    def __init__(
        self,
        packs: Sequence[Sequence[Job]],
        listeners: Sequence[Listener],
        policy: Policy,
        repeats: Repeats,
        attempts: Counter[str],
        nodes: Nodes,
        asha: Asha | None = None,
        beat: Callable[[], None] | None = None,
    ) -> None:
        self.packs, self.listeners, self.asha = packs, listeners, asha
        self.policy, self.repeats, self.attempts = policy, repeats, attempts
        self.stopped: set[str] = set()
        self.again: list[list[Job]] = []
        self.problems: dict[str, tuple[str, Kind]] = {}
        self.broken: Exception | None = None
        self.told: set[str] = set()
        self.nodes, self.reduced, self.beat = nodes, False, beat
        self.deserted, self.looked = False, time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles callbacks for `Tuner.restore`. What is missing is computed anew here, never restored.
        return {}

    def look_around(self) -> bool:
        """Whether the driver's own Ray has lost its node, or nobody can vouch any more for what the sweep may do."""
        if time.monotonic() - self.looked > LOOK_SECONDS:
            self.looked = time.monotonic()
            self.deserted = not self.nodes.driver and not self.nodes.alive()
            if self.beat:
                self.guarded(self.beat)
        return self.deserted or self.broken is not None

    @property
    def interrupted(self) -> bool:
        """Whether trials were ended that could go on."""
        return self.reduced or self.deserted

    def unfinished(self) -> list[list[Job]]:
        """What has neither ended nor is to be tried again in other packs."""
        left = ([job for job in pack if job.key not in self.told | self.problems.keys()] for pack in self.packs)
        return [jobs for jobs in left if jobs]

    def abandoned(self) -> list[list[Job]]:
        """What the dead node leaves to be run; reports as failed what has been left by one too often."""
        packs = []
        for left in self.unfinished():
            self.attempts[left[0].key] += 1
            if self.attempts[left[0].key] <= self.policy.retries:
                self._tell("noted", left[0], "Ray's node on this machine has died; it is started again")
                packs.append(left)
            else:
                for job in left:
                    self._tell("failed", job, "Ray's node on this machine has died again and again", "lost")
        return packs

    def _tell(self, event: str, job: Job, *details: Any) -> None:
        if event in ("finished", "failed", "stopped"):
            self.told.add(job.key)
        for listener in self.listeners:
            self.guarded(functools.partial(getattr(listener, event), job, *details))

    def guarded(self, call: Callable[[], T]) -> T | None:
        """What `call` returns; an error is kept for later. Let through, Tune would wrap its traceback into an error of
        its own."""
        try:
            return call()
        except Exception as error:
            self.broken = self.broken or error
            return None

    def decide(self, trial: TuneTrial, result: dict[str, Any]) -> bool:
        """Whether the scheduler stops a job at a result, which Tune has flattened; raises InputError where the job does
        not log the metric."""
        assert self.asha is not None
        (job,) = self._jobs(trial)
        name = self.asha.settings.metric
        for history in result.get("histories", ()):
            self.asha.remember(job, {epoch: metrics[name] for epoch, _, metrics in history if name in metrics})
        first = "members/0/"
        metrics = {key.removeprefix(first): value for key, value in result.items() if key.startswith(first)}
        return bool(metrics) and self.asha.stops(job, result["epoch"], metrics)

    def _jobs(self, trial: TuneTrial) -> Sequence[Job]:
        return self.packs[trial.config["index"]]

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        for text in self.nodes.news():
            self._tell("noted", self._jobs(trial)[0], text)
        for job in self._jobs(trial):
            self._tell("started", job)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        jobs = self._jobs(trial)
        for text in result.pop("notes", ()):
            self._tell("noted", jobs[0], text)
        for job, history in zip(jobs, result.pop("histories", ()), strict=False):
            if history:
                self._tell("resumed", job, history)
        for index, metrics in result.get("members", {}).items():
            self._tell("epoch", jobs[int(index)], result["epoch"], metrics)
            if self.asha and jobs[0].key in self.asha.stopped:
                self._tell("stopped", jobs[0], result["epoch"], self.asha.why(jobs[0]))
        # Taken out, because Tune writes what stays in a result into its own records.
        for job, outcome in zip(jobs, result.pop("outcomes", ()), strict=False):
            self.stopped.add(job.key)
            if outcome["failure"]:
                self._fail(job, outcome["failure"], "diverged")
            else:
                self._tell("finished", job, outcome["metrics"], outcome["files"], result["hardware"])
        problem = result.pop("problem", None)
        if problem and problem["kind"] == "unfit":
            self.nodes.leave_out(problem["node"], problem["text"])
            self.reduced = True
        elif problem:
            self._divide(jobs, _tidy(problem["text"]), problem["kind"])

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        # Tune keeps every trial until the end, with a history of every number: the driver would grow with each.
        trial.run_metadata.metric_analysis.clear()
        trial.run_metadata.metric_n_steps.clear()

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        why = "memory did not suffice" if _lost_kind(_reason(trial)) == "memory" else "the worker was lost"
        retry = f"retry {trial.num_failures} of {self.policy.retries}"
        self._tell("noted", self._jobs(trial)[0], f"{why}; it goes on from its last checkpoint ({retry})")

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        jobs = [job for job in self._jobs(trial) if job.key not in self.stopped]
        if not jobs:
            return
        reason = _reason(trial)
        kind = _lost_kind(reason)
        self.attempts[jobs[0].key] += 1
        if kind == "memory" and len(jobs) > 1:
            self._divide(jobs, reason, kind)
        elif trial.num_failures <= self.policy.retries and self.attempts[jobs[0].key] <= self.policy.retries:
            self._tell("noted", jobs[0], "the worker was lost as it started; it is tried again")
            self._again(jobs, reason, kind)
        else:
            self.repeats.add(kind, reason)
            for job in jobs:
                self._tell("failed", job, reason, kind)

    def give_up(self, pack: Sequence[Job]) -> None:
        """Report a pack as failed that should have been run in another round."""
        for job in pack:
            if job.key in self.problems:
                self._tell("failed", job, *self.problems[job.key])

    def _fail(self, job: Job, reason: str, kind: Kind) -> None:
        self.repeats.add(kind, reason)
        self._tell("failed", job, reason, kind)

    def _divide(self, jobs: Sequence[Job], reason: str, kind: Kind) -> None:
        """A pack that failed as a whole: run its members alone to find the culprit, or its halves if it was too big."""
        if len(jobs) == 1:
            self._fail(jobs[0], reason, kind)
            return
        self.repeats.add(kind, reason)
        half = (len(jobs) + 1) // 2
        parts = [jobs[:half], jobs[half:]] if kind == "memory" else [[job] for job in jobs]
        how = "by halves" if kind == "memory" else "one by one"
        self._tell("noted", jobs[0], f"its pack of {len(jobs)} failed ({reason.splitlines()[-1]}); tried again {how}")
        for part in parts:
            self._again(part, reason, kind)

    def _again(self, jobs: Sequence[Job], reason: str, kind: Kind) -> None:
        self.again.append(list(jobs))
        self.problems |= {job.key: (reason, kind) for job in jobs}


def _lost_kind(reason: str) -> Kind:
    """Why Tune lost a worker: raised for lack of memory, ended by Ray for it, or simply gone."""
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
