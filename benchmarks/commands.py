"""The command line as a user starts it, in an empty folder with a tracking store of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sweeps

BETA = Path(sweeps.__file__).parent / "beta.yaml"
STOP_SECONDS = 60


class CommandFailed(RuntimeError):
    """A command ended with another status than 0; the message has the end of what it printed."""


class Workplace:
    """A folder in which `cplearn` runs: its own store, results and data, no cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.database = folder, folder / "mlflow.db"
        self.uri = f"sqlite:///{self.database}"

    @contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """`cplearn ARGUMENTS` as a running process, which is stopped as by Ctrl-C when the block is left."""
        foreign = ("RAY_ADDRESS", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI")
        environment = {key: value for key, value in os.environ.items() if key not in foreign}
        environment |= {"MLFLOW_TRACKING_URI": self.uri, "CPLEARN_DATA": str(self.folder / "data")}
        with (self.folder / "output").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "runner.cli", *arguments],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                yield process
            finally:
                _stop(process)

    def seconds(self, *arguments: str) -> float:
        """Seconds of the whole command `cplearn ARGUMENTS`; raises CommandFailed."""
        start = time.perf_counter()
        with self.started(*arguments) as process:
            process.wait()
            taken = time.perf_counter() - start
        if process.returncode:
            raise CommandFailed(f"cplearn {' '.join(arguments)} ended with status {process.returncode}: {self.said()}")
        return taken

    def said(self) -> str:
        """The last lines that a command has printed."""
        return "\n".join((self.folder / "output").read_text(errors="replace").splitlines()[-10:])


@contextmanager
def workplace() -> Iterator[Workplace]:
    """A fresh one, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="cplearn-bench-", ignore_cleanup_errors=True) as folder:
        yield Workplace(Path(folder))


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
