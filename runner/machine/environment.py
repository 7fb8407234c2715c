"""The environment of worker processes, and how to compute in one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

T = TypeVar("T")

WORKER_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**30)}
"""glibc returns freed memory to the system at once, and every training step then waits for page faults; keeping it
makes a step on a CPU a sixth faster, and of wide networks a third."""


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
    before = dict(os.environ)
    os.environ.update({**WORKER_ENVIRONMENT, "KINETO_LOG_LEVEL": "99"})  # Torch's profiler keeps quiet.
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
