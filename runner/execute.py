"""Execution of packs by Ray Tune, on this machine or on the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

import cplearn.data
from cplearn.distributed import Ranks
from cplearn.errors import InputError
from cplearn.training import member_bytes
from runner.environment import WORKER_ENVIRONMENT
from runner.events import Listener
from runner.packing import MEMORY_SHARE, group
from runner.plan import Job
from runner.resources import Resources
from runner.trainable import PackTrainable

# Tune hands AWS credentials on to its workers by a way that Ray writes to its logs in clear. Workers need none: the
# driver alone talks to the store.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
    {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
)

UNSEEN_GPU_MEMORY = 8 * 2**30
"""Assumed where the driver's own machine has no GPU but the cluster's nodes do; a careful guess."""


def execute(
    jobs: Sequence[Job],
    listeners: Sequence[Listener],
    resources: Resources,
    packing: int | None = 1,
    data_root: str | None = None,
    compile: bool = False,
    by_seed: bool = False,
    admit: Callable[[Sequence[Job]], bool] | None = None,
) -> None:
    """Run every job, in packs of at most `packing` or, with None, of the width that suits (see `runner.packing`).

    The listeners are told. A pack that fails does not stop the others. `data_root` should be absolute: workers do not
    run in the driver's directory. `compile` turns on `torch.compile`. `by_seed` keeps the seeds in separate packs.
    `admit` is asked before a pack starts: one that is refused waits, and stays undone if no other runs any more.

    Raises InputError if no node can hold a pack, KeyboardInterrupt if the user stops the sweep; workers are gone then.
    """
    if not jobs:
        return
    with _ray(), tempfile.TemporaryDirectory(prefix="cplearn-tune-") as scratch:
        resources = _fit(resources)
        for job in jobs:
            if job.trial.method.trains:
                Ranks(0, resources.processes).part(job.trial.batch_size)
        slots = resources.slots(_nodes())
        packs = group(jobs, packing, slots, lambda job: _fitting(job, resources, data_root), by_seed=by_seed)
        for listener in listeners:
            listener.planned(packs)
        config: dict[str, Any] = {
            "data_root": data_root,
            "cpus": resources.cpus,
            "gpus": resources.each.get("GPU", 0.0),
            "ranks": resources.processes,
            "compile": compile,
        }
        gate = _Gate(packs, slots, admit) if admit else None
        if gate is None:
            config["index"] = tune.grid_search(list(range(len(packs))))
            config["members"] = tune.sample_from(lambda config: _members(packs[config["index"]]))
        placed = tune.PlacementGroupFactory([resources.each] * resources.processes)
        tune.Tuner(
            tune.with_resources(PackTrainable, placed),
            param_space=config,
            tune_config=tune.TuneConfig(
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
                search_alg=gate,
                num_samples=len(packs) if gate else 1,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                callbacks=[_Bridge(packs, listeners)],
                failure_config=tune.FailureConfig(max_failures=0, fail_fast=False),
                checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
                verbose=0,
            ),
        ).fit()


def _members(pack: Sequence[Job]) -> list[dict[str, Any]]:
    return [job.trial.canonical() for job in pack]


class _Gate(tune.search.Searcher):
    """Hands out packs one by one, the first that is admitted, and one ahead of the free slots.

    With a pack waiting, Tune passes a worker on to it; without, it would end the worker and start another.
    """

    def __init__(self, packs: Sequence[Sequence[Job]], slots: int, admit: Callable[[Sequence[Job]], bool]) -> None:
        super().__init__()
        self.packs, self.slots, self.admit = packs, slots, admit
        self.waiting, self.running = list(range(len(packs))), set[str]()

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if len(self.running) > self.slots:
            return None
        for index in self.waiting:
            if self.admit(self.packs[index]):
                self.waiting.remove(index)
                self.running.add(trial_id)
                return {"index": index, "members": _members(self.packs[index])}
        return None if self.running else self.FINISHED

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


class _Bridge(tune.Callback):
    """Tune's callbacks, translated into events of single jobs."""

    def __init__(self, packs: Sequence[Sequence[Job]], listeners: Sequence[Listener]) -> None:
        self.packs, self.listeners = packs, listeners
        self.stopped: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles callbacks for `Tuner.restore`. What is missing is computed anew here, never restored.
        return {}

    def _tell(self, event: str, job: Job, *details: Any) -> None:
        for listener in self.listeners:
            getattr(listener, event)(job, *details)

    def _jobs(self, trial: TuneTrial) -> Sequence[Job]:
        return self.packs[trial.config["index"]]

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        for job in self._jobs(trial):
            self._tell("started", job)

    def on_trial_result(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        jobs = self._jobs(trial)
        for index, metrics in result.get("members", {}).items():
            self._tell("epoch", jobs[int(index)], result["epoch"], metrics)
        # Taken out, because Tune writes what stays in a result into its own records.
        for job, outcome in zip(jobs, result.pop("outcomes", ()), strict=False):
            self.stopped.add(job.key)
            if outcome["failure"]:
                self._tell("failed", job, outcome["failure"])
            else:
                self._tell("finished", job, outcome["metrics"], outcome["files"], result["hardware"])

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        reason = _reason(trial)
        for job in self._jobs(trial):
            if job.key not in self.stopped:
                self._tell("failed", job, reason)


def _reason(trial: TuneTrial) -> str:
    """The traceback of a failed trial as the worker saw it."""
    # Tune has written it to the driver's disk by now, and copies it to the experiment's storage later.
    path = Path(trial.error_file) if trial.error_file else None
    text = path.read_text(errors="replace") if path and path.is_file() else "the worker was lost"
    # Terminal colours and squiggles under the source lines do not belong into a tracking store.
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).strip().splitlines()
    return "\n".join(line for line in lines if line.strip(" ^~"))


def cluster(resources: Resources) -> tuple[Resources, int]:
    """`resources` with the number of GPUs settled, and the slots of the cluster of RAY_ADDRESS.

    Raises InputError if no node can hold a pack.
    """
    with _ray():
        resources = _fit(resources)
        return resources, resources.slots(_nodes())


def _fit(resources: Resources) -> Resources:
    nodes = _nodes()
    resources = resources.settle(any(node.get("GPU", 0) for node in nodes))
    if not resources.slots(nodes):
        have = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise InputError(f"a trial asks for {resources}, but the nodes have {have}; ask for less")
    return resources


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _fitting(job: Job, resources: Resources, data_root: str | None) -> int:
    """How many trials like this one fit into the memory of a slot, by the memory that one was measured to need."""
    root = Path(data_root) if data_root else None
    dataset = cplearn.data.load(**job.trial.data_request(), root=root)
    return int(MEMORY_SHARE * _slot_memory(resources) / member_bytes(job.trial, dataset))


def _slot_memory(resources: Resources) -> float:
    """Bytes of the smallest slot: its part of a GPU as the driver sees it, or of a node's memory as Ray counts it."""
    if resources.gpus:
        seen = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
        return min(seen, default=UNSEEN_GPU_MEMORY) * min(resources.gpus, 1)
    return min(node["memory"] * resources.cpus / node["CPU"] for node in _nodes() if node.get("CPU", 0))


@contextmanager
def _ray() -> Iterator[None]:
    """A connection to Ray: one that exists, the cluster of RAY_ADDRESS, or a new local one that ends with the block."""
    if ray.is_initialized():
        yield
        return
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # A new local Ray hands these on to its workers.
    for name, value in WORKER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Blanking CUDA_VISIBLE_DEVICES for tasks without GPUs would hide the GPUs that a driver-side check asks for.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {} if address else {"include_dashboard": False}
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    try:
        yield
    finally:
        ray.shutdown()
