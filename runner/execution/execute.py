"""Execution of jobs by Ray Tune, on this machine or on the cluster that RAY_ADDRESS names; see `contract`."""

import dataclasses
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import tune

from runner.events import Audience, Listener
from runner.execution.contract import ExecutionOptions, Steering
from runner.execution.nodes import Nodes
from runner.execution.session import connected, start_ray, stop_ray
from runner.execution.trainable import TrialTrainable
from runner.execution.tune_callbacks import Dispatcher, RayLost, TuneCallbacks
from runner.machine.resources import Resources
from runner.planning.plan import Job


def execute(
    jobs: Sequence[Job], listeners: Sequence[Listener], options: ExecutionOptions, steering: Steering | None = None
) -> str | None:
    """Run every job in its order, and those that `steering` has to add, one in each slot at a time.

    A trial that fails does not stop the others. Returns the failure that came `options.stop_after` times, at which the
    sweep was stopped; None normally.

    Raises InputError if no node can hold a trial, or none is left that can train (see `nodes`); what a listener or the
    steering has raised; KeyboardInterrupt if the user stops the sweep. Workers are gone then.
    """
    steering = steering or Steering()
    if not jobs and (job := steering.next_job()):
        jobs = [job]
    if not jobs:
        return None
    audience = Audience(listeners)
    with connected(options.checkpoints, options.modules) as (is_own, scratch):
        nodes = Nodes(is_own)
        options = dataclasses.replace(options, resources=nodes.fit(options.resources))
        dispatcher = Dispatcher(jobs, options, nodes, audience, steering)
        callbacks = TuneCallbacks(dispatcher)
        while dispatcher.waiting:
            audience.tell("planned", dispatcher.waiting)
            _tune(dispatcher, callbacks, scratch)
            if audience.error:
                raise audience.error
            if callbacks.repeated or not callbacks.interrupted:
                break
            if callbacks.ray_lost:
                stop_ray()
                start_ray(scratch, options.checkpoints, options.modules)
            else:
                nodes.ask(options.resources)
            callbacks.resume()
            if not dispatcher.waiting and (job := steering.next_job()):
                dispatcher.add(job)
        return callbacks.repeated


def cluster(resources: Resources) -> tuple[Resources, int]:
    """`resources` with the number of GPUs settled, and the slots of the cluster of RAY_ADDRESS.

    Raises InputError if no node can hold a trial, or those that could cannot train.
    """
    with connected() as (is_own, _):
        nodes = Nodes(is_own)
        return nodes.fit(resources), nodes.slots


def _tune(dispatcher: Dispatcher, callbacks: TuneCallbacks, scratch: Path) -> None:
    """Run what the dispatcher hands out, until it has no more or the callbacks end it."""
    resources, nodes = dispatcher.options.resources, dispatcher.nodes
    bundles: list[dict[str, Any]] = [resources.each] * resources.processes
    placed = tune.PlacementGroupFactory(bundles, **nodes.selector(resources.processes))
    tuner = tune.Tuner(
        tune.with_resources(TrialTrainable, placed),
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
            search_alg=dispatcher,
            num_samples=-1,  # The dispatcher says itself when it has no more.
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=tempfile.mkdtemp(dir=scratch),
            callbacks=[callbacks],
            stop=callbacks,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            verbose=0,
        ),
    )
    with suppress(RayLost):
        tuner.fit()
