"""Start and stop of Ray: the cluster of RAY_ADDRESS, or a local Ray that belongs to the driver."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.tune.execution import class_cache

from cplearn.errors import InputError
from runner.execution.nodes import environment
from runner.machine.environment import WORKER_ENVIRONMENT

# Tune hands AWS credentials on to its workers by a way that Ray writes to its logs in clear. Workers need none: the
# driver alone talks to the store.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
    {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
)


@contextmanager
def connected() -> Iterator[bool]:
    """Be connected to Ray in the block; yields whether this Ray is local and was started for the block.

    A connection that exists is used, and left as it is.
    """
    if ray.is_initialized():
        yield False
        return
    start()
    try:
        yield not os.environ.get("RAY_ADDRESS")
    finally:
        stop()


def start() -> None:
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
            _knock(address)
        # Without an address Ray would join any cluster that somebody has started on this machine.
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
    except (OSError, RuntimeError, ValueError) as error:
        if not address:
            raise
        ray.shutdown()
        why = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"RAY_ADDRESS={address}: this cluster cannot be joined ({why})") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, sigterm)


def stop() -> None:
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


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT: Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "//" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
