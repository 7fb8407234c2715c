"""Execution of packs by Ray Tune, on this machine or on the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ray import tune

import cplearn.data
from cplearn.training import footprint
from runner.durability.checkpoints import Checkpoints
from runner.events import Listener
from runner.execution import session
from runner.execution.bridge import Bridge
from runner.execution.gate import Decider, Gate, Stop, described
from runner.execution.nodes import Nodes, facts
from runner.execution.scheduler import Asha
from runner.execution.trainable import PackTrainable
from runner.faults import Policy, Repeats
from runner.machine.resources import Resources
from runner.planning.packing import group, widest
from runner.planning.plan import Job

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
    checkpoints: str | None = None,
    checkpoint_every: float = 60,
    policy: Policy = Policy(),  # noqa: B008 (it is frozen)
    more: Callable[[], Job | None] | None = None,
    asha: Asha | None = None,
    beat: Callable[[], None] | None = None,
) -> str | None:
    """Run every job, in packs of at most `packing` or, with None, of the width that suits (see `planning.packing`).

    The listeners are told. A pack that fails does not stop the others; its members are tried alone, or by halves where
    memory did not suffice. `data_root` should be absolute: workers do not run in the driver's directory. `compile`
    turns on `torch.compile`. `by_seed` keeps the seeds in separate packs. `admit` is asked before a pack starts: one
    that is refused waits, and stays undone if no other runs any more. With `checkpoints` (see
    `durability.checkpoints`),
    jobs go on from those they have, and leave one every `checkpoint_every` seconds at most. `more` is asked for a
    further job whenever a slot is free and no job waits; None from it means that there is none now. `asha` stops jobs
    early; it compares single jobs, so it needs a `packing` of 1. `beat` is called every few seconds; what it raises
    ends the sweep.

    Returns the failure that has been repeated too often by `policy`, at which the sweep was stopped; None normally.

    Raises InputError if no node can hold a pack, or none is left that can train (see `nodes`), KeyboardInterrupt
    if the user stops the sweep; workers are gone then.
    """
    if not jobs and more is None:
        return None
    if asha and packing != 1:
        raise ValueError("a scheduler stops single jobs, so they cannot share packs")
    with session.connected() as own, tempfile.TemporaryDirectory(prefix="cplearn-tune-") as scratch:
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
            bridge = Bridge(packs, listeners, policy, repeats, attempts, nodes, asha=asha, beat=beat)
            gate = Gate(packs, slots, bridge, admit, more) if admit or more or asha else None
            bundles, avoid = [resources.each] * resources.processes, nodes.selector(resources.processes)
            _tune(packs, bridge, config, scratch, tune.PlacementGroupFactory(bundles, **avoid), gate)
            packs = bridge.again
            if bridge.reduced:
                packs = bridge.unfinished() + packs
                nodes.ask(resources)
                slots = nodes.require(resources)
            elif bridge.deserted:
                packs = bridge.abandoned() + packs
                session.stop()
                session.start()
        for pack in packs:
            assert bridge is not None
            bridge.give_up(pack)
        return repeats.reached


def _tune(
    packs: Sequence[Sequence[Job]],
    bridge: Bridge,
    config: dict[str, Any],
    scratch: str,
    placed: tune.PlacementGroupFactory,
    gate: Gate | None,
) -> None:
    """Run all packs once, and those whose workers are lost as often as the bridge's policy allows."""
    if gate is None:
        config = {
            **config,
            "index": tune.grid_search(list(range(len(packs)))),
            "members": tune.sample_from(lambda config: described(packs[config["index"]])["members"]),
            "keys": tune.sample_from(lambda config: described(packs[config["index"]])["keys"]),
            "data": tune.sample_from(lambda config: described(packs[config["index"]])["data"]),
        }
    tune.Tuner(
        tune.with_resources(PackTrainable, placed),
        param_space=config,
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
            search_alg=gate,
            scheduler=Decider(bridge) if bridge.asha else None,
            # A gate says itself when it is through.
            num_samples=-1 if gate else 1,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=tempfile.mkdtemp(dir=scratch),
            callbacks=[bridge],
            stop=Stop(bridge),
            failure_config=tune.FailureConfig(max_failures=bridge.policy.retries, fail_fast=False),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            verbose=0,
        ),
    ).fit()
    if bridge.broken:
        raise bridge.broken


def cluster(resources: Resources) -> tuple[Resources, int]:
    """`resources` with the number of GPUs settled, and the slots of the cluster of RAY_ADDRESS.

    Raises InputError if no node can hold a pack, or those that could cannot train.
    """
    with session.connected() as own:
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
