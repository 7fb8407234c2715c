"""The environment of worker processes, and how to compute in one."""

import ctypes
import inspect
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from sweeps.secrets import is_secret

T = TypeVar("T")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # What glibc's header malloc.h calls these settings.

WHOLE = threading.RLock()
"""Held by whoever needs the environment as the user has set it, and by whoever takes something out of it."""

KEPT_BYTES = 2**30
WORKER_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES), "MALLOC_MMAP_THRESHOLD_": str(KEPT_BYTES)}
"""glibc returns freed memory to the system at once, and every training step then waits for page faults; keeping it
makes a step on a CPU a sixth faster, and of wide networks a third."""

_PATH = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); "
PROCESS = [
    *(sys.executable, "-P", "-c"),
    f"{_PATH} from runner.machine.environment import carry_out_request; carry_out_request()",
]


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


def start_worker(*, quiet: bool = False) -> subprocess.Popen[bytes]:
    """A fresh process, with the environment of a sweep's worker, that carries out the one `request` it is sent.

    What is measured there is what a trial would take, and leaves no threads, memory or random state behind. Unlike one
    of multiprocessing, it does not import the caller's main module again. An interrupt from the keyboard does not reach
    it. With `quiet` nobody sees what libraries print there.
    """
    environment = worker_environment() | {"KINETO_LOG_LEVEL": "99"}  # Torch's profiler keeps quiet.
    errors = subprocess.DEVNULL if quiet else None
    pipe = subprocess.PIPE
    return subprocess.Popen(PROCESS, stdin=pipe, stdout=pipe, stderr=errors, env=environment, start_new_session=True)


def request(function: Callable[..., Any], *arguments: Any) -> bytes:
    """What asks a worker to call a module's function."""
    return pickle.dumps(sys.path) + pickle.dumps((function, arguments))


def carry_out_request() -> None:
    """What a worker does: each answer (of a generator each item) or error goes out pickled."""
    function, arguments = pickle.load(sys.stdin.buffer)
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # What libraries print is no answer.
    try:
        result = function(*arguments)
        for answer in result if inspect.isgenerator(result) else (result,):
            out.write(pickle.dumps((answer, None)))
    except Exception as error:
        error.add_note(traceback.format_exc())
        out.write(pickle.dumps((None, error)))
        sys.exit(1)


def answers(output: bytes) -> Iterator[tuple[Any, Exception | None]]:
    """Each whole answer in what a worker has written, and the error; a killed one may leave half an answer."""
    stream = io.BytesIO(output)
    with suppress(EOFError, pickle.UnpicklingError):
        while True:
            yield pickle.load(stream)


def in_worker(function: Callable[..., T], *arguments: Any) -> T:
    """Call a module's function in a worker, and return its result; an interrupt ends the worker at once.

    Raises what the function raises, WorkerLost if the process dies.
    """
    worker = start_worker()
    try:
        output, _ = worker.communicate(request(function, *arguments))
    except BaseException:
        worker.kill()
        raise
    for result, error in answers(output):
        if error:
            raise error
        return result
    code = worker.returncode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    hint = "; the system kills so where memory is short" if code == -signal.SIGKILL else ""
    raise WorkerLost(f"the process of {function.__name__} {how}{hint}")
