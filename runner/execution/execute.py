"""Execution of jobs by Ray Tune, on this machine or on the cluster that RAY_ADDRESS names; see `contract`."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from typing import Any

from ray import tune

from runner.events import Audience, Listener
from runner.execution import session
from runner.execution.contract import ExecutionOptions, Steering, TrialRequest
from runner.execution.dispatch import Dispatcher, EarlyStopper, SweepStopper
from runner.execution.nodes import Nodes, facts
from runner.execution.trainable import TrialTrainable
from runner.execution.tune_callbacks import TuneCallbacks
from runner.faults import Repeats
from runner.machine.resources import Resources
from runner.planning.plan import Job


def execute(
    jobs: Sequence[Job], listeners: Sequence[Listener], options: ExecutionOptions, steering: Steering | None = None
) -> str | None:
    """Run every job in its order, and those that `steering` has to add, one in each slot at a time.

    A trial that fails does not stop the others. Returns the failure that was repeated too often by `options.policy`, at
    which the sweep was stopped; None normally.

    Raises InputError if no node can hold a trial, or none is left that can train (see `nodes`); what a listener or the
    steering has raised; KeyboardInterrupt if the user stops the sweep. Workers are gone then.
    """
    steering = steering or Steering()
    jobs = list(jobs) or _further(steering)
    if not jobs:
        return None
    audience, repeats = Audience(listeners), Repeats(options.policy.stop_after)
    with session.connected() as is_own, tempfile.TemporaryDirectory(prefix="cplearn-tune-") as scratch:
        nodes = Nodes({} if is_own else facts())
        resources, slots = _fit(options.resources, nodes)
        request = functools.partial(_request, resources=resources, options=options, steering=steering, nodes=nodes)
        dispatcher = Dispatcher(jobs, slots, request, audience, steering)
        callbacks = TuneCallbacks(dispatcher, audience, options.policy, repeats, nodes, steering)
        while dispatcher.waiting:
            audience.planned(dispatcher.waiting)
            _tune(callbacks, resources, scratch)
            if audience.error:
                raise audience.error
            if repeats.reached or not callbacks.interrupted:
                break
            if callbacks.ray_died:
                session.stop()
                session.start()
            else:
                nodes.ask(resources)
                dispatcher.slots = nodes.require(resources)
            callbacks.resume()
            dispatcher.add(() if dispatcher.waiting else _further(steering))
        return repeats.reached


def cluster(resources: Resources) -> tuple[Resources, int]:
    """`resources` with the number of GPUs settled, and the slots of the cluster of RAY_ADDRESS.

    Raises InputError if no node can hold a trial, or those that could cannot train.
    """
    with session.connected() as is_own:
        return _fit(resources, Nodes({} if is_own else facts()))


def _further(steering: Steering) -> list[Job]:
    job = steering.next_job()
    return [job] if job else []


def _fit(resources: Resources, nodes: Nodes) -> tuple[Resources, int]:
    resources = resources.settle(any(node.get("GPU", 0) for node in nodes.alive()))
    nodes.require(resources)
    nodes.ask(resources)
    return resources, nodes.require(resources)


def _request(
    job: Job, *, resources: Resources, options: ExecutionOptions, steering: Steering, nodes: Nodes
) -> TrialRequest:
    return TrialRequest(
        key=job.key,
        settings=job.trial.canonical(),
        data=[(job.trial.dataset, job.fingerprint), *job.transfer],
        data_root=options.data_root,
        cpus=resources.cpus,
        gpus=resources.each.get("GPU", 0.0),
        ranks=resources.processes,
        compile=options.compile,
        checkpoints=options.checkpoints,
        checkpoint_every=options.checkpoint_every,
        rungs=steering.asha.rungs(job) if steering.asha else [],
        driver=nodes.driver,
    )


def _tune(callbacks: TuneCallbacks, resources: Resources, scratch: str) -> None:
    """Run what the dispatcher hands out, until it has no more or the callbacks end it."""
    bundles: list[dict[str, Any]] = [resources.each] * resources.processes
    placed = tune.PlacementGroupFactory(bundles, **callbacks.nodes.selector(resources.processes))
    tune.Tuner(
        tune.with_resources(TrialTrainable, placed),
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
            search_alg=callbacks.dispatcher,
            scheduler=EarlyStopper(callbacks),
            num_samples=-1,  # The dispatcher says itself when it has no more.
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=tempfile.mkdtemp(dir=scratch),
            callbacks=[callbacks],
            stop=SweepStopper(callbacks),
            failure_config=tune.FailureConfig(max_failures=callbacks.policy.retries, fail_fast=False),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            verbose=0,
        ),
    ).fit()
