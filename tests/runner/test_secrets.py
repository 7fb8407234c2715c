"""What must not leak, and what must not be executed: secrets of the environment, servers, YAML and checkpoints."""

from __future__ import annotations

import ast
import base64
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from erring import erring
from support import POSTGRESQL_PASSWORD, below, free_port, processes

pytestmark = pytest.mark.timeout(900)
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="asks Linux about processes")
ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cplearn", "sweeps", "runner", "reports")
# What comes through these was written by this program's own parent or child process, as with multiprocessing.
OWN_PIPES = ("runner/machine/environment.py:",)
SECRETS = {
    name: f"sesame-{uuid.uuid4().hex[:12]}"
    for name in ("AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "HF_TOKEN", "DATABASE_PASSWORD", "the store's password")
}
URI_PASSWORD = SECRETS.pop("the store's password")
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
            end = time.monotonic() + 300
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
            process.wait(60)
            assert started
            assert not started & processes().keys(), "some processes of the server have stayed"


@pytest.mark.long
@needs_proc
def test_the_interface_listens_on_the_loopback_alone(served: tuple[Path, int]) -> None:
    assert listeners(served[1]) == {"0100007F"}


@pytest.mark.long
@needs_proc
def test_the_interface_of_a_database_has_no_password_in_arguments(
    postgresql: Callable[[str], str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "runner.cli", "ui", "--port", str(free_port())]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": postgresql("shown")}
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        try:
            lines = [""]
            while not any("uvicorn" in line for line in lines):
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.1)
                everyone = processes()
                lines = [everyone[pid][1] for pid in {process.pid, *below(process.pid)} if pid in everyone]
            assert any("mlflow server" in line for line in lines)
            assert POSTGRESQL_PASSWORD not in " ".join(lines)
        finally:
            process.terminate()
            process.wait(60)
    assert POSTGRESQL_PASSWORD not in (tmp_path / "server.log").read_text()


class Watched:
    """Commands while which all new processes of this machine are looked at: `shown` has the arguments of each, and
    with them the environment of all but the commands themselves, which were given the secrets."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.before, self.shown = processes().keys(), dict[int, bytes]()

    def run(self, *arguments: str) -> bytes:
        """What a command prints."""
        path = self.folder / f"said-{arguments[0]}"
        with path.open("wb") as output:
            command = [sys.executable, "-m", "runner.cli", *arguments]
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )
            try:
                while process.poll() is None:
                    self.look(process.pid)
                    time.sleep(0.1)
            finally:
                process.kill()
        return path.read_bytes()

    def look(self, driver: int) -> None:
        with suppress(OSError):
            line = Path(f"/proc/{driver}/cmdline").read_bytes()
            self.shown[driver] = line
            for pid in processes().keys() - self.before - {driver}:
                with suppress(OSError):
                    folder = Path(f"/proc/{pid}")
                    arguments = (folder / "cmdline").read_bytes()
                    # One that the driver has just forked shares its memory until it has become another program.
                    if arguments != line:
                        self.shown[pid] = arguments + b"\0" + (folder / "environ").read_bytes()


@pytest.mark.long
@needs_proc
def test_no_secret_reaches_terminal_store_tables_logs_or_processes(served: tuple[Path, int], tmp_path: Path) -> None:
    """One trial finishes and one fails, with secrets in the environment and a server that asks for a password, which
    stands in its address."""
    folder, port = served
    (tmp_path / "quiet.yaml").write_text(SWEEP)
    # Ray's sockets need a short path.
    logs = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    environment = {
        **{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
        **SECRETS,
        "RAY_TMPDIR": str(logs),
        "CPLEARN_DATA": str(tmp_path / "data"),
    }
    try:
        with erring(f"http://127.0.0.1:{port}") as proxy:
            proxy.errs = False
            proxy.authorization = "Basic " + base64.b64encode(f"user:{URI_PASSWORD}".encode()).decode()
            environment["MLFLOW_TRACKING_URI"] = proxy.address.replace("//", f"//user:{URI_PASSWORD}@")
            watched = Watched(tmp_path, environment)
            said = watched.run("sweep", "quiet.yaml", "--gpus-per-trial", "0")
            said += watched.run("plan", "quiet.yaml", "--list") + watched.run("report", "nothing")
        assert b"1 of 2 trials failed" in said, said
        assert b"the MLflow store http://127.0.0.1" in said  # the unknown sweep names the store
        files = [path for top in (tmp_path, folder, logs) for path in top.rglob("*") if path.is_file()]
        assert any(path.name == "mlflow.db" for path in files)
        assert any(path.suffix == ".tex" for path in files)
        assert any("session_" in str(path) for path in files)
        for name in (b"raylet", b"gcs_server", b"default_worker.py"):
            assert any(name in shown.partition(b"\0\0")[0] for shown in watched.shown.values()), name
        shown = {f"process {text[:200]!r}": text for text in watched.shown.values()}
        for place, content in {**{str(path): path.read_bytes() for path in files}, **shown}.items():
            for name, secret in {**SECRETS, "the store's password": URI_PASSWORD}.items():
                assert secret.encode() not in content, f"{name} is in {place}"
    finally:
        shutil.rmtree(logs, ignore_errors=True)
