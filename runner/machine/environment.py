"""The environment of worker processes, and how to compute in one."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from sweeps.secrets import is_secret

T = TypeVar("T")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""What glibc's header malloc.h calls these settings."""

WHOLE = threading.RLock()
"""Held by whoever needs the environment as the user has set it, and by whoever takes something out of it."""

KEPT_BYTES = 2**30
WORKER_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES), "MALLOC_MMAP_THRESHOLD_": str(KEPT_BYTES)}
"""glibc returns freed memory to the system at once, and every training step then waits for page faults; keeping it
makes a step on a CPU a sixth faster, and of wide networks a third."""


def keep_memory() -> None:
    """Let this process keep its memory as `WORKER_ENVIRONMENT` lets a worker, which is read only when one starts."""
    with suppress(OSError, AttributeError):  # Other C libraries than glibc have no such function.
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(parameter, KEPT_BYTES)


def for_driver_alone(name: str) -> bool:
    """Whether a variable of the environment is none of a worker's business: addresses of stores, and secrets, but not
    what Ray's own processes know each other by."""
    is_address = name.startswith("MLFLOW_") and ("URI" in name or "USERNAME" in name)
    return is_address or (is_secret(name) and not name.startswith("RAY_"))


def worker_environment() -> dict[str, str]:
    """The environment of a process that computes for this one."""
    return WORKER_ENVIRONMENT | {name: text for name, text in os.environ.items() if not for_driver_alone(name)}


@contextmanager
def without_drivers_variables(keep: str = "") -> Iterator[None]:
    """Processes that are started in the block do not inherit what is for the driver alone; what begins with `keep` they
    do inherit, if it is given."""
    with WHOLE:
        names = [name for name in os.environ if for_driver_alone(name) and not (keep and name.startswith(keep))]
        taken_out = {name: os.environ.pop(name) for name in names}
        try:
            yield
        finally:
            os.environ.update(taken_out)


class WorkerLost(RuntimeError):
    """A process ended without a result; the message says how."""


def in_worker(function: Callable[..., T], *arguments: Any) -> T:
    """Call a module's function in a fresh process with the environment of a sweep's worker, and return its result.

    What is measured there is what a trial would take, and leaves no threads, memory or random state behind. An
    interrupt ends the process at once. Raises what the function raises, WorkerLost if the process dies.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_answer, args=(sender, function, arguments))
    # Set while the process starts, because glibc reads its variables before any Python runs.
    with WHOLE:
        before, inherited = dict(os.environ), worker_environment()
        os.environ.clear()
        os.environ.update(inherited | {"KINETO_LOG_LEVEL": "99"})  # Torch's profiler keeps quiet.
        try:
            worker.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
    sender.close()
    try:
        result, error = receiver.recv()
        worker.join()
    except EOFError:
        worker.join()
        code = worker.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        hint = "; the system kills so where memory is short" if code == -signal.SIGKILL else ""
        raise WorkerLost(f"the process of {function.__name__} {how}{hint}") from None
    except KeyboardInterrupt:
        # The terminal interrupts both processes, and the worker ignores it.
        worker.kill()
        raise
    if error:
        raise error
    return result


def _answer(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        sender.send((function(*arguments), None))
    except Exception as error:
        error.add_note(traceback.format_exc())
        sender.send((None, error))
