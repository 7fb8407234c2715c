"""Execution of packs by Ray Tune, on this machine or on the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import functools
import gc
import logging
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, MutableSequence, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

# All are read when ray is imported or a sweep starts. Tune's own handler of Ctrl-C ends `fit` as if all were done; of
# its two displays, only the older one can be silenced.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
import torch
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler

import cplearn.data
from cplearn.errors import InputError
from cplearn.training import footprint
from runner.checkpoints import Checkpoints
from runner.environment import WORKER_ENVIRONMENT
from runner.events import Listener
from runner.faults import Kind, Policy, Repeats
from runner.nodes import Nodes, environment, facts
from runner.packing import group, widest
from runner.plan import Job
from runner.resources import Resources
from runner.scheduler import Asha
from runner.trainable import PackTrainable

# Tune hands AWS credentials on to its workers by a way that Ray writes to its logs in clear. Workers need none: the
# driver alone talks to the store.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
    {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
)

T = TypeVar("T")

UNSEEN_GPU_MEMORY = 8 * 2**30
"""Assumed where the driver's own machine has no GPU but the cluster's nodes do; a careful guess."""
LOOK_SECONDS = 5.0
"""How often a driver makes sure that the Ray it has started is alive, and that its claims are."""


def execute(
    jobs: Sequence[Job],
    listeners: Sequence[Listener],
    resources: Resources,
    packing: int | None = 1,
    data_root: str | None = None,
    compile: bool = False,
    by_seed: bool = False,
    admit: Callable[[Sequence[Job]], bool] | None = None,
    checkpoints: str | None = None,
    checkpoint_every: float = 60,
    policy: Policy = Policy(),  # noqa: B008 (it is frozen)
    more: Callable[[], Job | None] | None = None,
    asha: Asha | None = None,
    beat: Callable[[], None] | None = None,
) -> str | None:
    """Run every job, in packs of at most `packing` or, with None, of the width that suits (see `runner.packing`).

    The listeners are told. A pack that fails does not stop the others; its members are tried alone, or by halves where
    memory did not suffice. `data_root` should be absolute: workers do not run in the driver's directory. `compile`
    turns on `torch.compile`. `by_seed` keeps the seeds in separate packs. `admit` is asked before a pack starts: one
    that is refused waits, and stays undone if no other runs any more. With `checkpoints` (see `runner.checkpoints`),
    jobs go on from those that they have, and leave one every `checkpoint_every` seconds at most. `more` is asked for a
    further job whenever a slot is free and no job waits; None from it means that there is none now. `asha` stops jobs
    early; it compares single jobs, so it needs a `packing` of 1. `beat` is called every few seconds; what it raises
    ends the sweep.

    Returns the failure that has been repeated too often by `policy`, at which the sweep was stopped; None normally.

    Raises InputError if no node can hold a pack, or none is left that can train (see `runner.nodes`), KeyboardInterrupt
    if the user stops the sweep; workers are gone then.
    """
    if not jobs and more is None:
        return None
    if asha and packing != 1:
        raise ValueError("a scheduler stops single jobs, so they cannot share packs")
    with _ray() as own, tempfile.TemporaryDirectory(prefix="cplearn-tune-") as scratch:
        nodes = Nodes({} if own else facts())
        resources, slots = _fit(resources, nodes)
        epochs = Checkpoints(checkpoints).epochs({job.key for job in jobs}) if checkpoints else {}
        fitting = functools.partial(_fitting, resources=resources, nodes=nodes, data_root=data_root)
        packs = group(jobs, packing, slots, fitting, epochs, by_seed=by_seed)
        config: dict[str, Any] = {
            "data_root": data_root,
            "cpus": resources.cpus,
            "gpus": resources.each.get("GPU", 0.0),
            "ranks": resources.processes,
            "compile": compile,
            "checkpoints": checkpoints,
            "checkpoint_every": checkpoint_every,
            "rungs": [],
            "driver": dict(nodes.driver),
        }
        repeats = Repeats(policy.stop_after)
        attempts: Counter[str] = Counter()
        bridge = None
        while (packs or (more and (bridge is None or bridge.interrupted))) and repeats.reached is None:
            for listener in listeners:
                listener.planned(packs)
            bridge = _Bridge(packs, listeners, policy, repeats, attempts, nodes, asha=asha, beat=beat)
            gate = _Gate(packs, slots, bridge, admit, more) if admit or more or asha else None
            bundles, avoid = [resources.each] * resources.processes, nodes.selector(resources.processes)
            _tune(packs, bridge, config, scratch, tune.PlacementGroupFactory(bundles, **avoid), gate)
            packs = bridge.again
            if bridge.reduced:
                packs = bridge.unfinished() + packs
                nodes.ask(resources)
                slots = nodes.require(resources)
            elif bridge.deserted:
                packs = bridge.abandoned() + packs
                _stop_ray()
                _start_ray()
        for pack in packs:
            assert bridge is not None
            bridge.give_up(pack)
        return repeats.reached


def _tune(
    packs: Sequence[Sequence[Job]],
    bridge: _Bridge,
    config: dict[str, Any],
    scratch: str,
    placed: tune.PlacementGroupFactory,
    gate: _Gate | None,
) -> None:
    """Run all packs once, and those whose workers are lost as often as the bridge's policy allows."""
    if gate is None:
        config = {
            **config,
            "index": tune.grid_search(list(range(len(packs)))),
            "members": tune.sample_from(lambda config: _members(packs[config["index"]])),
            "keys": tune.sample_from(lambda config: _keys(packs[config["index"]])),
            "data": tune.sample_from(lambda config: _data(packs[config["index"]])),
        }
    tune.Tuner(
        tune.with_resources(PackTrainable, placed),
        param_space=config,
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
            search_alg=gate,
            scheduler=_Decider(bridge) if bridge.asha else None,
            # A gate says itself when it is through.
            num_samples=-1 if gate else 1,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=tempfile.mkdtemp(dir=scratch),
            callbacks=[bridge],
            stop=_Stop(bridge),
            failure_config=tune.FailureConfig(max_failures=bridge.policy.retries, fail_fast=False),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            verbose=0,
        ),
    ).fit()
    if bridge.broken:
        raise bridge.broken


class _Stop(tune.Stopper):
    """Ends all trials once a failure has been repeated too often, nobody can be told of results, a node is left out, or
    Ray is dead."""

    def __init__(self, bridge: _Bridge) -> None:
        self.bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        bridge = self.bridge
        return bridge.repeats.reached is not None or bridge.broken is not None or bridge.reduced or bridge.look_around()


def _data(pack: Sequence[Job]) -> list[list[str]]:
    return [[pack[0].trial.dataset, pack[0].fingerprint], *map(list, pack[0].transfer)]


def _members(pack: Sequence[Job]) -> list[dict[str, Any]]:
    return [job.trial.canonical() for job in pack]


def _keys(pack: Sequence[Job]) -> list[str]:
    return [job.key for job in pack]


class _Gate(tune.search.Searcher):
    """Hands out packs one by one, the first that is admitted; where none waits, what `more` gives.

    One is handed out ahead of the free slots: with a pack waiting, Tune passes a worker on to it; without, it would end
    the worker and start another. But `more` is asked for no more than the slots can run, so that it has seen every
    result there is.
    """

    def __init__(
        self,
        packs: MutableSequence[list[Job]],
        slots: int,
        bridge: _Bridge,
        admit: Callable[[Sequence[Job]], bool] | None,
        more: Callable[[], Job | None] | None,
    ) -> None:
        super().__init__()
        self.packs, self.slots, self.bridge = packs, slots, bridge
        self.admit, self.more = admit, more
        self.waiting, self.running = list(range(len(packs))), set[str]()

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if len(self.running) > self.slots:
            return None
        if not self.waiting and len(self.running) < self.slots:
            self._ask()
        for index in self.waiting:
            pack = self.packs[index]
            if self.admit is None or self.admit(pack):
                self.waiting.remove(index)
                self.running.add(trial_id)
                rungs = self.bridge.asha.rungs(pack[0]) if self.bridge.asha else []
                described = {"members": _members(pack), "keys": _keys(pack), "data": _data(pack)}
                return {"index": index, **described, "rungs": rungs}
        return None if self.running else self.FINISHED

    def _ask(self) -> None:
        job = self.bridge.guarded(self.more) if self.more else None
        if job is not None:
            self.packs.append([job])
            self.waiting.append(len(self.packs) - 1)
            for listener in self.bridge.listeners:
                listener.planned([[job]])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.running.discard(trial_id)

    # What is missing is computed anew, never restored, so there is no state to keep.

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def get_state(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class _Decider(FIFOScheduler):
    """`Asha` as Tune asks it: whether a trial stops at a result."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self.bridge = bridge

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        stop = self.bridge.guarded(lambda: self.bridge.decide(trial, result))
        return self.STOP if stop else self.CONTINUE

    def __getstate__(self) -> dict[str, Any]:
        # As of the gate.
        return {}


class _Bridge(tune.Callback):
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


def cluster(resources: Resources) -> tuple[Resources, int]:
    """`resources` with the number of GPUs settled, and the slots of the cluster of RAY_ADDRESS.

    Raises InputError if no node can hold a pack, or those that could cannot train.
    """
    with _ray() as own:
        return _fit(resources, Nodes({} if own else facts()))


def _fit(resources: Resources, nodes: Nodes) -> tuple[Resources, int]:
    resources = resources.settle(any(node.get("GPU", 0) for node in nodes.alive()))
    nodes.require(resources)
    nodes.ask(resources)
    return resources, nodes.require(resources)


def _fitting(job: Job, resources: Resources, nodes: Nodes, data_root: str | None) -> int:
    """How many trials like this one a pack should have at most, by what one was measured to cost."""
    root = Path(data_root) if data_root else None
    dataset = cplearn.data.load(**job.trial.data_request(), root=root)
    return widest(footprint(job.trial, dataset), _slot_memory(resources, nodes), bool(resources.gpus))


def _slot_memory(resources: Resources, nodes: Nodes) -> float:
    """Bytes of the smallest slot: its part of a GPU as the driver sees it, or of a node's memory as Ray counts it."""
    if resources.gpus:
        seen = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
        return min(seen, default=UNSEEN_GPU_MEMORY) * min(resources.gpus, 1)
    return min(node["memory"] * resources.cpus / node["CPU"] for node in nodes.alive() if node.get("CPU", 0))


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT: Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "//" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def _ray() -> Iterator[bool]:
    """A connection to Ray: one that exists, the cluster of RAY_ADDRESS, or a new local one that ends with the block.

    Gives whether it is a new local one.
    """
    if ray.is_initialized():
        yield False
        return
    _start_ray()
    try:
        yield not os.environ.get("RAY_ADDRESS")
    finally:
        _stop_ray()


def _stop_ray() -> None:
    # Ray ends the whole process if a reference to one of its objects is dropped while it shuts down. Garbage that holds
    # some is collected in whichever thread happens to allocate, the tracker's say: so before, and not meanwhile.
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if collecting:
            gc.enable()


def _start_ray() -> None:
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A new local Ray hands these on to its workers.
    for name, value in WORKER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Blanking CUDA_VISIBLE_DEVICES for tasks without GPUs would hide the GPUs that a driver-side check asks for.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"runtime_env": environment()} if address else {"include_dashboard": False}
    # Ray would put its own handler in the place of the caller's, and dies by it.
    sigterm = signal.getsignal(signal.SIGTERM)
    # Without an address Ray would join any cluster that somebody has started on this machine.
    try:
        if address:
            _knock(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError) as error:
        if not address:
            raise
        ray.shutdown()
        why = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"RAY_ADDRESS={address}: this cluster cannot be joined ({why})") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, sigterm)
