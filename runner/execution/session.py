"""The Ray that a sweep runs on: one that is there, the cluster of RAY_ADDRESS, or a local one of its own."""

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
    """A connection to Ray: one that exists, the cluster of RAY_ADDRESS, or a new local one that ends with the block.

    Gives whether it is a new local one.
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


def stop() -> None:
    """Leave Ray, which ends a local one."""
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


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT: Ray would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "//" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
