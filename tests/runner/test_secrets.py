"""What must not leak, and what must not be executed: secrets of the environment, servers, YAML and checkpoints."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

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
URI_PASSWORD = "sesame-uri-4715"
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


def test_no_secret_reaches_terminal_store_tables_or_logs(served: tuple[Path, int], tmp_path: Path) -> None:
    """One trial finishes and one fails, with a password in the address of the store and secrets in the environment."""
    folder, port = served
    (tmp_path / "quiet.yaml").write_text(SWEEP)
    # Ray's sockets need a short path.
    logs = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    environment = {
        **{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
        **SECRETS,
        "RAY_TMPDIR": str(logs),
        "MLFLOW_TRACKING_URI": f"http://user:{URI_PASSWORD}@127.0.0.1:{port}",
        "CPLEARN_DATA": str(tmp_path / "data"),
    }
    try:
        said = b""
        for arguments in (
            ["sweep", "quiet.yaml", "--gpus-per-trial", "0"],
            ["plan", "quiet.yaml", "--list"],
            ["report", "nothing"],
        ):
            command = [sys.executable, "-m", "runner.cli", *arguments]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=180, check=False)
            said += done.stdout + done.stderr
        assert b"1 of 2 trials failed" in said
        assert b"the MLflow store http://127.0.0.1" in said  # the unknown sweep names the store
        (tmp_path / "said").write_bytes(said)
        files = [path for top in (tmp_path, folder, logs) for path in top.rglob("*") if path.is_file()]
        assert any(path.name == "mlflow.db" for path in files)
        assert any(path.suffix == ".tex" for path in files)
        assert any("session_" in str(path) for path in files)
        for path in files:
            content = path.read_bytes()
            for name, secret in {**SECRETS, "the store's password": URI_PASSWORD}.items():
                assert secret.encode() not in content, f"{name} is in {path}"
    finally:
        shutil.rmtree(logs, ignore_errors=True)
