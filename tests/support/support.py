"""Helpers that several test files share: servers, the command line, inputs of methods."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from cplearn import methods, streams
from cplearn.backbones import initialise
from cplearn.methods.base import Batch, Method, MethodInputs, Progress
from runner.cli import app

POSTGRESQL_PASSWORD = "sesame-postgres-4716"


ROOT = Path(__file__).resolve().parents[2]


def needs(program: str) -> pytest.MarkDecorator:
    """Skip where a program is missing on a user's machine; in CI its absence is a failure."""
    missing = shutil.which(program) is None and not os.environ.get("CI")
    return pytest.mark.skipif(missing, reason=f"{program} is not installed")


def needs_module(name: str) -> pytest.MarkDecorator:
    """Skip where a library that only tests use is missing on a user's machine; in CI its absence is a failure."""
    missing = importlib.util.find_spec(name) is None and not os.environ.get("CI")
    return pytest.mark.skipif(missing, reason=f"{name} is not installed; pip install '.[dev]' brings it")


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(database: str, folder: Path, port: int | None = None) -> Iterator[str]:
    """The address of an MLflow server on a store, with its artifacts in `folder`; it is killed when the block ends."""
    folder.mkdir(exist_ok=True)
    port = port or free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    # Seven idle job workers would start otherwise, which takes longer than the rest.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
        try:
            deadline = time.monotonic() + 100
            while not _healthy(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise AssertionError(f"the server did not start: {log.read().decode()}")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _healthy(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
    except OSError:
        return False
    return True


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of every living process."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name, in brackets, may hold anything.
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            line = (folder / "cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            found[int(folder.name)] = (int(parent), line)
    return found


def below(pid: int) -> set[int]:
    """All processes that descend from one."""
    everyone = processes()
    found, new = set[int](), {pid}
    while new:
        new = {child for child, (parent, _) in everyone.items() if parent in new} - found
        found |= new
    return found


def working() -> set[int]:
    """All processes but Ray's agents, which take a minute to notice that their node is dead."""
    agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
    return {pid for pid, (_, line) in processes().items() if not line.startswith(agents)}


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


START = Progress(step=0, steps_per_epoch=4, epochs=3)


def batch_of(features: Tensor, labels: Tensor | None = None, progress: Progress = START) -> Batch:
    """A step's batch of features (V, n, F); the teacher, should a method ask for one, sees what the student sees."""
    labels = torch.zeros(features.shape[1], dtype=torch.long) if labels is None else labels
    return Batch(features, labels, progress, features[:2].detach())


def build_method(name: str, settings: dict | None = None, features: int = 6, classes: int = 3, seed: int = 0) -> Method:
    """A method in float64 for batches of 8 images, with its frozen parts and its weights drawn from the seed."""
    module, generator = methods.get(name), torch.Generator().manual_seed(seed)
    inputs = MethodInputs(features, 8, classes, generator, functools.partial(streams.generator, seed, "method"))
    method = module.Method(module.Settings(**settings or {}), inputs)
    initialise(method, generator)
    method.after_initialisation()
    return method.double()


def uri(folder: Path) -> str:
    """The address of a folder's own tracking store."""
    return f"sqlite:///{folder / 'mlflow.db'}"


def run_cli(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and output of `cplearn ARGUMENTS`, called in a folder with a tracking store and data of its own."""
    environment = {"MLFLOW_TRACKING_URI": uri(folder), "CPLEARN_DATA": str(folder / "data")}
    before = Path.cwd()
    os.chdir(folder)
    try:
        result = CliRunner().invoke(app, list(arguments), env=environment)
    finally:
        os.chdir(before)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output
