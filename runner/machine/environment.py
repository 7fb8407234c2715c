"""The environment of worker processes, and how to compute in one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
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
    others = multiprocessing.active_children()
    with (
        _environment({**WORKER_ENVIRONMENT, "KINETO_LOG_LEVEL": "99"}),  # Torch's profiler keeps quiet.
        ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=signal.signal,
            initargs=(signal.SIGINT, signal.SIG_IGN),
        ) as pool,
    ):
        future = pool.submit(function, *arguments)
        (worker,) = (child for child in multiprocessing.active_children() if child not in others)
        try:
            return future.result()
        except BrokenProcessPool:
            code = _exit_code(worker)
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
            hint = "; the system kills so where memory is short" if code == -signal.SIGKILL else ""
            raise WorkerLost(f"the process of {function.__name__} {how}{hint}") from None
        except KeyboardInterrupt:
            # The terminal interrupts both processes, and the worker ignores it.
            worker.kill()
            raise


def _exit_code(worker: BaseProcess) -> int:
    """The exit code of a dead process, which is known a moment later where the pool's thread has seen it first."""
    worker.join()
    for _ in range(500):
        if worker.exitcode is not None:
            break
        time.sleep(0.01)
    return worker.exitcode or 0


@contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    """Set variables for processes that start within the block: glibc reads its variables before any Python runs."""
    before = {key: os.environ.get(key) for key in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
