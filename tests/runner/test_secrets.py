"""What must not leak, and what must not be executed: secrets of the environment, servers, YAML and checkpoints."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from support import below, free_port, processes

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cplearn", "sweeps", "runner", "reports")
# What comes through these was written by this program's own parent or child process, as with multiprocessing.
OWN_PIPES = ("runner/timing/calibrate.py:",)
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "sesame-aws-4711",
    "WANDB_API_KEY": "sesame-wandb-4712",
    "HF_TOKEN": "sesame-token-4713",
    "DATABASE_PASSWORD": "sesame-password-4714",
}
URI_PASSWORD = "sesame/uri?47@15#%"
SWEEP = """
sweep: quiet
settings:
  epochs: 1
  method: {codes: 16, embedding_dim: 8}
  backbone: {name: resnet8-slim, width: 4}
  evaluation: {kmeans_restarts: 1}
axes: {method.beta: [1], optimizer.lr: [1e-3, 1e38]}
"""


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the program with where it stands."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_checkpoints_are_read_as_tensors_and_yaml_as_data() -> None:
    loads = 0
    for where, call in calls():
        name = ast.unparse(call.func)
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if name == "torch.load":
            loads += 1
            only = given.get("weights_only")
            assert isinstance(only, ast.Constant), where
            assert only.value is True, where
        elif name in ("yaml.load", "yaml.load_all"):
            loads += 1
            assert ast.unparse(given.get("Loader", ast.Constant(None))) == "Loader", where
        if name == "pickle.load" and where.startswith(OWN_PIPES):
            continue
        assert name not in ("yaml.unsafe_load", "yaml.full_load", "pickle.load", "pickle.loads", "eval", "exec"), where
    assert loads >= 3
    import yaml

    from sweeps.loading import Loader

    assert issubclass(Loader, yaml.SafeLoader)


def listeners(port: int) -> set[str]:
    """The local addresses, in the kernel's hexadecimal, at which something listens on a port."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            if state == "0A" and int(address.rpartition(":")[2], 16) == port:
                found.add(address.rpartition(":")[0])
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """`cplearn ui` on a free port, over a store in a folder of its own."""
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    command = [sys.executable, "-m", "runner.cli", "ui", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            end = time.monotonic() + 90
            while time.monotonic() < end:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                    break
                except OSError:
                    time.sleep(0.3)
            else:
                pytest.fail((folder / "server.log").read_text())
            yield folder, port
        finally:
            started = below(process.pid)
            process.terminate()
            process.wait(20)
            assert started
            assert not started & processes().keys(), "some processes of the server have stayed"


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="asks Linux who listens")
def test_the_interface_listens_on_the_loopback_alone(served: tuple[Path, int]) -> None:
    assert listeners(served[1]) == {"0100007F"}


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads what Linux says of processes")
def test_the_interface_learns_its_store_by_the_environment(served: tuple[Path, int]) -> None:
    """Everybody on a machine can read the arguments of a process, where an address with a password would stand."""
    store = f"{served[0]}/mlflow.db".encode()
    ids = [folder.name for folder in Path("/proc").glob("[0-9]*")]
    assert any(b"MLFLOW_BACKEND_STORE_URI=sqlite:///" + store in Watch.read(number, "environ") for number in ids)
    assert not any(store in Watch.read(number, "cmdline") for number in ids)


class Watch(threading.Thread):
    """Notes the processes of this machine that have a secret in their arguments or in their environment, apart from the
    process `driver` and from what it has just forked."""

    def __init__(self, driver: int) -> None:
        super().__init__(daemon=True)
        self.driver, self.ended = driver, threading.Event()
        self.found: set[str] = set()
        self.names: set[str] = set()
        self.start()

    def run(self) -> None:
        own = self.read(self.driver, "cmdline")
        while not self.ended.wait(0.2):
            for folder in Path("/proc").glob("[0-9]*"):
                arguments = self.read(folder.name, "cmdline")
                self.names.add(arguments.partition(b"\0")[0].rpartition(b"/")[2].decode(errors="replace"))
                told = arguments if arguments == own else arguments + self.read(folder.name, "environ")
                if b"sesame" in told:
                    self.found.add(arguments.replace(b"\0", b" ").decode(errors="replace"))

    @staticmethod
    def read(process: int | str, what: str) -> bytes:
        """What Linux says of a process."""
        try:
            return Path(f"/proc/{process}/{what}").read_bytes()
        except OSError:  # It has ended, or belongs to another user.
            return b""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads what Linux says of processes")
def test_no_secret_reaches_terminal_store_tables_logs_or_other_processes(
    served: tuple[Path, int], tmp_path: Path
) -> None:
    """One trial finishes and one fails, with a password in the address of the store and secrets in the environment."""
    folder, port = served
    (tmp_path / "quiet.yaml").write_text(SWEEP)
    # Ray's sockets need a short path.
    logs = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    environment = {
        **{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
        **SECRETS,
        "RAY_TMPDIR": str(logs),
        "MLFLOW_TRACKING_URI": f"http://user:{quote(URI_PASSWORD, safe='')}@127.0.0.1:{port}",
        "CPLEARN_DATA": str(tmp_path / "data"),
    }
    try:
        said, names = b"", set[str]()
        for arguments in (
            ["sweep", "quiet.yaml", "--gpus-per-trial", "0"],
            ["plan", "quiet.yaml", "--list"],
            ["report", "nothing"],
        ):
            command = [sys.executable, "-m", "runner.cli", *arguments]
            with subprocess.Popen(
                command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            ) as process:
                watch = Watch(process.pid)
                said += process.communicate(timeout=180)[0]
                watch.ended.set()
                watch.join()
            assert not watch.found
            names |= watch.names
        assert {"gcs_server", "raylet"} <= names, "Ray's processes were seen"
        assert b"1 of 2 trials failed" in said
        assert b"the MLflow store http://127.0.0.1" in said  # the unknown sweep names the store
        (tmp_path / "said").write_bytes(said)
        files = [path for top in (tmp_path, folder, logs) for path in top.rglob("*") if path.is_file()]
        assert any(path.name == "mlflow.db" for path in files)
        assert any(path.suffix == ".tex" for path in files)
        assert any("session_" in str(path) for path in files)
        for path in files:
            content = path.read_bytes()
            assert b"sesame" not in content, path
    finally:
        shutil.rmtree(logs, ignore_errors=True)
