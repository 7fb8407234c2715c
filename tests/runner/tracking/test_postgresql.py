"""A tracking store in PostgreSQL, from Debian's package, on the loopback: directly, and behind `mlflow server`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from mlflow import MlflowClient

from cplearn.errors import InputError
from runner.durability.claims import Claims, SharedClaims, claims_of
from support import POSTGRESQL_PASSWORD as PASSWORD
from support import mlflow_server
from sweeps.record import TRIAL, Tag

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
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def database(postgresql: Callable[[str], str]) -> str:
    return postgresql("sweeps")


def start(folder: Path, uri: str, *arguments: str) -> subprocess.Popen[str]:
    """A command in a folder of its own."""
    environment = {
        **{key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
        "MLFLOW_TRACKING_URI": uri,
        "CPLEARN_DATA": str(folder / "data"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    line = [sys.executable, "-m", "runner.cli", *arguments]
    return subprocess.Popen(
        line, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def words(process: subprocess.Popen[str]) -> str:
    """What a command has printed in the end; it must succeed."""
    try:
        output, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return " ".join(output.split())


def command(folder: Path, uri: str, *arguments: str) -> str:
    return words(start(folder, uri, *arguments))


@pytest.mark.long
@pytest.mark.parametrize("served", [False, True], ids=["directly", "behind a server"])
def test_a_sweep_on_postgresql_is_reused_reported_and_verified(
    database: str, tmp_path: Path, served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"served-{served}"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    (tmp_path / "tiny.yaml").write_text(SWEEP)
    with mlflow_server(database, tmp_path / "server") if served else nullcontext(database) as uri:
        drivers = [
            start(tmp_path, uri, "sweep", "tiny.yaml", "--gpus-per-trial", "0") for _ in range(1 if served else 2)
        ]
        said = " ".join([words(driver) for driver in drivers])
        again = command(tmp_path, uri, "sweep", "tiny.yaml", "--gpus-per-trial", "0")
        assert "0 trials to run, 2 finished before" in again
        said += again + command(tmp_path, uri, "report", "tiny")
        verified = command(tmp_path, uri, "verify", "results")
        assert "agree with the tracking store" in verified
        client = MlflowClient(uri)
        runs = client.search_runs([client.get_experiment_by_name(name).experiment_id])
        trials = [run for run in runs if run.data.tags[Tag.KIND] == TRIAL]
        assert Counter(run.info.status for run in trials) == {"FINISHED": 2}
        assert len({run.data.tags[Tag.KEY] for run in trials}) == 2
        assert PASSWORD not in said + verified + str([run.to_dictionary() for run in runs])
        for path in (one for one in tmp_path.rglob("*") if one.is_file()):
            assert PASSWORD.encode() not in path.read_bytes(), path


HOLD = """
import sys
from runner.durability.claims import SharedClaims
with SharedClaims(sys.stdin.readline().strip()) as claims:
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
        with SharedClaims(database) as claims:
            assert [claims.take(key) for key in KEYS] == [False, False, True, True]
            holder.kill()
            holder.wait()
            claims.wait(KEYS[:2])
            assert claims.held == set(KEYS)
            with SharedClaims(database) as other:
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


def end_sessions(database: str) -> None:
    """End all connections to a database but one's own, as a restart of the server does."""
    import psycopg2

    connection = psycopg2.connect(database.replace("+psycopg2", ""))
    mine = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = %s"
    with connection, connection.cursor() as cursor:
        cursor.execute(mine, (database.rpartition("/")[2],))
    connection.close()


def test_claims_are_taken_again_when_their_connection_is_lost(database: str) -> None:
    keys = [KEYS[0], *KEYS[2:]]  # the first two share a lock
    with SharedClaims(database) as claims, SharedClaims(database) as other:
        assert claims.take(keys[0])
        end_sessions(database)
        claims.keep()
        assert [other.take(key) for key in keys[:2]] == [False, True]
        end_sessions(database)
        assert [claims.take(key) for key in keys] == [True, True, True]
        with pytest.raises(InputError, match=r"another driver has claimed 1 of the trials since; run the same"):
            other.keep()
        claims.release()
        with SharedClaims(database) as third:
            assert all(third.take(key) for key in keys)


def test_claims_survive_a_connection_that_only_the_driver_has_lost(database: str) -> None:
    with SharedClaims(database) as claims:
        assert claims.take(KEYS[0])
        abandoned = os.dup(claims.connection.fileno())  # keeps the other end from being told
        os.dup2(os.open(os.devnull, os.O_RDWR), claims.connection.fileno())
        try:
            claims.keep()
            with SharedClaims(database) as other:
                assert not other.take(KEYS[0])
        finally:
            os.close(abandoned)
