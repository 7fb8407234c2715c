"""Start and stop of Ray: the cluster of RAY_ADDRESS, or a local Ray that belongs to the driver."""

import gc
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import ray
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.job_config import JobConfig
from ray.tune.execution import class_cache

from cplearn.errors import InputError
from runner.execution.nodes import environment, program_folder
from runner.machine.environment import WORKER_ENVIRONMENT, without_drivers_variables
from runner.machine.folders import scratch_folder
from runner.machine.resources import usable_cpus

# Tune hands AWS credentials on to its workers by a way that Ray writes to its logs in clear. Workers need none: the
# driver alone talks to the store.
class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
    {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
)

# Ray starts workers ahead, without variables of their own. For the sake of this one, which nothing here reads, Tune
# would have others started in their place.
class_cache.DEFAULT_ENV_VARS.clear()
PRELOADED = ["torch", "cplearn.training", "runner.execution.trainable"]
"""Modules that the workers of a local Ray import as soon as they start, while the driver still prepares the trials."""

PROCESSES = ("gcs_server", "raylet")  # The processes without which a Ray does nothing, as Ray calls them.
PATIENCE = 40.0
"""Seconds after which a driver that waits for a Ray which has died ends itself; Ray's own limit is 60 s."""
AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN")
"""The environment variables by which Ray learns whether it asks for a token, and for which."""


@contextmanager
def connected(checkpoints: str | None = None, modules: Sequence[str] = ()) -> Iterator[tuple[bool, Path]]:
    """Be connected to Ray in the block; yields whether this Ray is local and was started for the block, for trials with
    these checkpoints and these `modules` from outside, and a folder for temporary files.

    A connection that exists is used, and left as it is.
    """
    with scratch_folder() as scratch:
        if ray.is_initialized():
            yield False, scratch
            return
        is_own = not os.environ.get("RAY_ADDRESS")
        with _token(scratch) if is_own else nullcontext(), _watched():
            start_ray(scratch, checkpoints, modules)
            try:
                yield is_own, scratch
            finally:
                stop_ray()


def start_ray(scratch: Path, checkpoints: str | None = None, modules: Sequence[str] = ()) -> None:
    """Connect to the cluster of RAY_ADDRESS, or start a local Ray with its files in a folder `ray` of `scratch`; raises
    InputError if that cannot be done."""
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # A new local Ray hands these on to its workers.
    for name, value in WORKER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Blanking CUDA_VISIBLE_DEVICES for tasks without GPUs would hide the GPUs that a check in the driver asks for.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = os.environ.get("RAY_ADDRESS")
    job = JobConfig()
    options: dict[str, Any] = {"job_config": job, "log_to_driver": False, "logging_level": logging.ERROR}
    folders = [str(program_folder()), *(str(Path(module).parent) for module in modules)]
    # Where workers look for modules first. Ray would put the working directory before all others, where modules of the
    # user may have the names of ours.
    job._py_driver_sys_path = _OnlyThese(() if address else dict.fromkeys(folders))
    if address:
        options["runtime_env"] = environment(modules)
    else:
        options |= {"include_dashboard": False, "num_cpus": usable_cpus()}
        options["_system_config"] = {"preload_python_modules": PRELOADED}
        if not os.environ.get("RAY_TMPDIR"):
            options["_temp_dir"] = str(scratch / "ray")
    # Ray puts a handler of its own in the place of the caller's, and dies by it.
    sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            host, colon, port = address.rpartition(":")
            if colon and port.isdigit() and "//" not in host:
                # Ray would try for minutes where nobody listens.
                socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        # Without an address Ray would join any cluster that somebody has started on this machine.
        with without_drivers_variables(keep="AWS_" if (checkpoints or "").startswith("s3:") else ""):
            ray.init(address=address or "local", **options)
    except (OSError, RuntimeError, ValueError) as error:
        ray.shutdown()
        why = " ".join(str(error).split()) or type(error).__name__
        what = f"RAY_ADDRESS={address}: this cluster cannot be joined" if address else "Ray cannot be started here"
        raise InputError(f"{what} ({why})") from None
    with suppress(ValueError):  # Only the main thread may, and only there Ray does.
        signal.signal(signal.SIGTERM, sigterm)


def processes() -> dict[str, subprocess.Popen[bytes]]:
    """The processes of a Ray that this driver has started, by what Ray calls them; none where it has started no Ray."""
    node = ray._private.worker._global_node
    infos = ((name, info) for name in PROCESSES for info in (node.all_processes.get(name, []) if node else []))
    return {name: info.process for name, info in infos}


def is_stopped(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process that this one has started is stopped by a signal; it answers nobody then, and does not end."""
    if process.poll() is not None or not hasattr(os, "waitid"):  # macOS has it from Python 3.13 on.
        return False
    return os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None


@contextmanager
def _watched() -> Iterator[None]:
    """While the block is left waiting for a Ray that has died, as its libraries may do in a call that nothing can
    interrupt, end this process with a sentence and status 1. The system ends Ray's processes with it."""
    over = threading.Event()

    def watch() -> None:
        alive = time.monotonic()
        while not over.wait(1.0):
            dead = [name for name, process in processes().items() if process.poll() is not None]
            if not dead:
                alive = time.monotonic()
            elif time.monotonic() - alive > PATIENCE:
                show_cursor = "\x1b[?25h" if sys.stdout.isatty() else ""
                what = f"Ray's {dead[0]} has died, and what waits for it cannot be ended alone"
                os.write(2, f"{show_cursor}\nerror: {what}; run the same command again\n".encode())
                os._exit(1)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def stop_ray() -> None:
    """Leave Ray, which ends a local one."""
    ours = processes().values()
    for process in ours:
        if is_stopped(process):  # Ray would wait for its answer.
            process.kill()
            process.wait()
    if any(process.poll() is not None for process in ours):
        # Otherwise what Tune has left, when it is collected below, asks a dead GCS to remove its placement groups.
        ray._private.worker.disconnect()
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


class _OnlyThese(list[str]):
    """Folders to which Ray adds none when it connects."""

    def extend(self, folders: Iterable[str]) -> None:
        pass


@contextmanager
def _token(scratch: Path) -> Iterator[None]:
    """A local Ray that is started in the block runs only what comes with its token, which stands in a file that this
    user alone can read. Ray listens on all interfaces."""
    before = {name: os.environ.pop(name) for name in AUTHENTICATION if name in os.environ}
    path = scratch / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(path))
    _read_authentication()
    try:
        yield
    finally:
        for name in AUTHENTICATION:
            os.environ.pop(name, None)
        os.environ.update(before)
        _read_authentication()


def _read_authentication() -> None:
    # Ray has read the environment when it was imported. The mode comes first: a thread of Ray that is still ending
    # would miss the token otherwise.
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()
