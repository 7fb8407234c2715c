"""Fixtures that several test files share."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import cplearn.data
from cplearn.data import Dataset
from support import POSTGRESQL_PASSWORD, ROOT, free_port

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


torch.set_num_threads(1)  # For fixtures of a module, which are made before those of its tests.


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """As in a worker with one CPU; more threads than idle cores make small problems many times slower."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[str], str]]:
    """Makes an empty database of a name in a PostgreSQL server on the loopback and gives its address, which has
    `POSTGRESQL_PASSWORD` in it."""
    binaries = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
    if binaries is None and os.environ.get("CI"):
        pytest.fail("PostgreSQL is not installed, and CI must test a store in it: apt-get install postgresql")
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    psycopg2 = pytest.importorskip("psycopg2")
    folder, port = Path(tempfile.mkdtemp(prefix="cplearn-pg-", dir="/tmp")), free_port()
    # initdb refuses to be run by root.
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    cluster, secret = folder / "cluster", folder / "password"
    made = [str(binaries / "initdb"), "-D", str(cluster), "-U", "sweeper", "--auth=scram-sha-256", "-E", "UTF8"]
    control = [*user, str(binaries / "pg_ctl"), "-D", str(cluster), "-w"]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"

    def create(name: str) -> str:
        address = f"sweeper:{POSTGRESQL_PASSWORD}@127.0.0.1:{port}"
        connection = psycopg2.connect(f"postgresql://{address}/postgres")
        connection.autocommit = True
        connection.cursor().execute(f"CREATE DATABASE {name}")
        connection.close()
        return f"postgresql+psycopg2://{address}/{name}"

    try:
        secret.write_text(POSTGRESQL_PASSWORD)
        if user:
            for path in (folder, secret):
                shutil.chown(path, "postgres")
        subprocess.run([*user, *made, "--pwfile", str(secret)], check=True, capture_output=True, cwd=folder)
        subprocess.run([*control, "-l", str(folder / "log"), "-o", options, "start"], check=True, cwd=folder)
        try:
            yield create
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, cwd=folder)
    finally:
        shutil.rmtree(folder)


LONGEST = ("test_faults", "test_sweep", "test_search", "test_plan", "test_ranks", "test_nodes", "test_fuzz")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that take longest come first, so that two processes end at about the same time."""
    items.sort(key=lambda item: LONGEST.index(name) if (name := item.path.stem) in LONGEST else len(LONGEST))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """160 training and 96 test digits: enough for metrics, few enough for seconds."""
    full = cplearn.data.load("digits")

    def cut(split: Any, n: int) -> Any:
        return dataclasses.replace(split, images=split.images[:n], labels=split.labels[:n])

    return dataclasses.replace(full, train=cut(full.train, 160), test=cut(full.test, 96))
