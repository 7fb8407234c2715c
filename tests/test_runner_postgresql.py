"""A tracking store in PostgreSQL, from Debian's package, on the loopback: directly, and behind `mlflow server`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from runner.claims import Claims, SharedClaims, claims_of

PASSWORD = "sesame-postgres-4716"
BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
SWEEP = """
sweep: tiny
settings:
  epochs: 1
  method: {codes: 16, embedding_dim: 8}
  backbone: {name: resnet8-slim, width: 4}
  evaluation: {kmeans_restarts: 1}
axes: {method.beta: [0.1, 1]}
"""
KEYS = [f"{number:016x}" for number in (0, 1, 0xFFFFFFFFFFFFFFFF, 0x8000000000000000)]
pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not BINARIES and not os.environ.get("CI"), reason="PostgreSQL is not installed"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of an empty database, with a password in it; initdb refuses to be run by root."""
    folder, port = Path(tempfile.mkdtemp(prefix="cplearn-pg-", dir="/tmp")), free_port()
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    try:
        (folder / "password").write_text(PASSWORD)
        if user:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres")
        cluster = folder / "cluster"
        made = [str(BINARIES[-1] / "initdb"), "-D", str(cluster), "-U", "sweeper", "--auth=scram-sha-256", "-E", "UTF8"]
        subprocess.run(
            [*user, *made, "--pwfile", str(folder / "password")], check=True, capture_output=True, cwd=folder
        )
        control = [*user, str(BINARIES[-1] / "pg_ctl"), "-D", str(cluster), "-w"]
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        subprocess.run([*control, "-l", str(folder / "log"), "-o", options, "start"], check=True, cwd=folder)
        try:
            yield f"postgresql+psycopg2://sweeper:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd=folder)
    finally:
        shutil.rmtree(folder)


def command(folder: Path, uri: str, *arguments: str) -> str:
    """What a command prints in a folder of its own; it must succeed."""
    environment = {
        **{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
        "MLFLOW_TRACKING_URI": uri,
        "CPLEARN_DATA": str(folder / "data"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    line = [sys.executable, "-m", "runner.cli", *arguments]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("served", [False, True], ids=["directly", "behind a server"])
def test_a_sweep_on_postgresql_is_reused_reported_and_verified(
    database: str, tmp_path: Path, served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"served-{served}"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    uri, server = database, None
    try:
        if served:
            port = free_port()
            uri = f"http://127.0.0.1:{port}"
            line = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--workers", "1"]
            server = subprocess.Popen(
                [*line, "--artifacts-destination", str(tmp_path / "artifacts"), "--port", str(port)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                cwd=tmp_path,
                start_new_session=True,
            )
            deadline = time.monotonic() + 100
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
        said = command(tmp_path, uri, "sweep", "tiny.yaml", "--gpus-per-trial", "0")
        again = command(tmp_path, uri, "sweep", "tiny.yaml", "--gpus-per-trial", "0")
        assert "0 trials to run, 2 finished before" in again
        said += again + command(tmp_path, uri, "report", "tiny")
        verified = command(tmp_path, uri, "verify", "results")
        assert "agree with the tracking store" in verified
        client = MlflowClient(uri)
        runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
        trials = [run for run in runs if run.data.tags["cplearn.kind"] == "trial"]
        assert Counter(run.info.status for run in trials) == {"FINISHED": 2}
        assert len({run.data.tags["cplearn.key"] for run in trials}) == 2
        assert PASSWORD not in said + verified + str([run.to_dictionary() for run in runs])
        for path in (one for one in tmp_path.rglob("*") if one.is_file()):
            assert PASSWORD.encode() not in path.read_bytes(), path
    finally:
        if server:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


HOLD = """
import sys
from runner.claims import SharedClaims
with SharedClaims(sys.stdin.readline().strip(), "file") as claims:
    print(*(claims.take(key) for key in sys.argv[1:]), flush=True)
    sys.stdin.read()
"""


def test_claims_in_postgresql_hold_between_processes_until_the_holder_dies(database: str) -> None:
    line = [sys.executable, "-c", HOLD, *KEYS[:2]]
    holder = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdin
        assert holder.stdout
        holder.stdin.write(f"{database}\n")
        holder.stdin.flush()
        assert holder.stdout.readline().split() == ["True", "True"]
        with SharedClaims(database, "file") as claims:
            assert [claims.take(key) for key in KEYS] == [False, False, True, True]
            holder.kill()
            holder.wait()
            claims.wait(KEYS[:2])
            assert claims.held == set(KEYS)
            with SharedClaims(database, "file") as other:
                assert not any(other.take(key) for key in KEYS)
                claims.release()
                assert all(other.take(key) for key in KEYS)
    finally:
        holder.kill()


def test_the_claims_of_a_store_are_where_all_its_drivers_see_them(tmp_path: Path) -> None:
    assert isinstance(claims_of("postgresql://user:x@127.0.0.1/db"), SharedClaims)
    assert isinstance(claims_of("postgresql+psycopg2://user:x@127.0.0.1/db"), SharedClaims)
    assert type(claims_of(f"sqlite:///{tmp_path}/mlflow.db")) is Claims
    assert type(claims_of("http://127.0.0.1:5000")) is Claims
