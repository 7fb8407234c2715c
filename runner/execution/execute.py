"""Execution of jobs by Ray Tune, on this machine or on the cluster that RAY_ADDRESS names; see `contract`."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import signal
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray import tune
from ray.tune.execution import class_cache

from cplearn.errors import InputError
from runner.events import Audience, Listener
from runner.execution.contract import ExecutionOptions, Steering
from runner.execution.nodes import Nodes, environment
from runner.execution.trainable import TrialTrainable
from runner.execution.tune_callbacks import Dispatcher, EarlyStopper, TuneCallbacks
from runner.machine.environment import WORKER_ENVIRONMENT
from runner.machine.resources import Resources
from runner.planning.plan import Job

# Tune hands AWS credentials on to its workers by a way that Ray writes to its logs in clear. Workers need none: the
# driver alone talks to the store.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
    {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
)


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
    if not jobs and not (jobs := _further(steering)):
        return None
    audience = Audience(listeners)
    with connected() as is_own, tempfile.TemporaryDirectory(prefix="cplearn-tune-") as scratch:
        nodes = Nodes(is_own)
        resources, slots = nodes.fit(options.resources)
        options = dataclasses.replace(options, resources=resources)
        dispatcher = Dispatcher(jobs, slots, options, nodes, audience, steering)
        callbacks = TuneCallbacks(dispatcher)
        while dispatcher.waiting:
            audience.tell("planned", dispatcher.waiting)
            _tune(dispatcher, callbacks, scratch)
            if audience.error:
                raise audience.error
            if callbacks.repeats.reached or not callbacks.interrupted:
                break
            if callbacks.ray_died:
                stop_ray()
                start_ray()
            else:
                dispatcher.slots = nodes.ask(resources)
            callbacks.resume()
            for job in () if dispatcher.waiting else _further(steering):
                dispatcher.add(job)
        return callbacks.repeats.reached


def cluster(resources: Resources) -> tuple[Resources, int]:
    """`resources` with the number of GPUs settled, and the slots of the cluster of RAY_ADDRESS.

    Raises InputError if no node can hold a trial, or those that could cannot train.
    """
    with connected() as is_own:
        return Nodes(is_own).fit(resources)


def _further(steering: Steering) -> list[Job]:
    job = steering.next_job()
    return [job] if job else []


def _tune(dispatcher: Dispatcher, callbacks: TuneCallbacks, scratch: str) -> None:
    """Run what the dispatcher hands out, until it has no more or the callbacks end it."""
    resources, nodes = dispatcher.options.resources, dispatcher.nodes
    bundles: list[dict[str, Any]] = [resources.each] * resources.processes
    placed = tune.PlacementGroupFactory(bundles, **nodes.selector(resources.processes))
    tune.Tuner(
        tune.with_resources(TrialTrainable, placed),
        tune_config=tune.TuneConfig(
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
            search_alg=dispatcher,
            scheduler=EarlyStopper(dispatcher),
            num_samples=-1,  # The dispatcher says itself when it has no more.
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=tempfile.mkdtemp(dir=scratch),
            callbacks=[callbacks],
            stop=callbacks,
            failure_config=tune.FailureConfig(max_failures=callbacks.retries, fail_fast=False),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            verbose=0,
        ),
    ).fit()


@contextmanager
def connected() -> Iterator[bool]:
    """Be connected to Ray in the block; yields whether this Ray is local and was started for the block.

    A connection that exists is used, and left as it is.
    """
    if ray.is_initialized():
        yield False
        return
    start_ray()
    try:
        yield not os.environ.get("RAY_ADDRESS")
    finally:
        stop_ray()


def start_ray() -> None:
    """Connect to the cluster of RAY_ADDRESS, or start a local Ray; raises InputError if it cannot be joined."""
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A new local Ray hands these on to its workers.
    for name, value in WORKER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Blanking CUDA_VISIBLE_DEVICES for tasks without GPUs would hide the GPUs that a check in the driver asks for.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"runtime_env": environment()} if address else {"include_dashboard": False}
    # Ray puts a handler of its own in the place of the caller's, and dies by it.
    sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            host, colon, port = address.rpartition(":")
            if colon and port.isdigit() and "//" not in host:
                # Ray would try for minutes where nobody listens.
                socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        # Without an address Ray would join any cluster that somebody has started on this machine.
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError) as error:
        if not address:
            raise
        ray.shutdown()
        why = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"RAY_ADDRESS={address}: this cluster cannot be joined ({why})") from None
    with suppress(ValueError):  # Only the main thread may, and only there Ray does.
        signal.signal(signal.SIGTERM, sigterm)


def stop_ray() -> None:
    """Leave Ray, which ends a local one."""
    # Ray ends the whole process if a reference to one of its objects is dropped while it shuts down. Garbage that holds
    # some is collected in whichever thread happens to allocate; so it is collected before, and not meanwhile.
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if was_enabled:
            gc.enable()
