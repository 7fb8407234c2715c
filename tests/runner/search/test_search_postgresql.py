"""Studies in the PostgreSQL database that MLflow uses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine, text

from cplearn.errors import InputError
from runner.events import TrialResult
from runner.planning.plan import SCHEMA, make_plan
from runner.search.search import Search
from runner.search.studies import beside
from sweeps.spec import read_sweep

SWEEP = """
sweep: tiny
settings: {method: {codes: 16}}
axes: {method.beta: {log_uniform: [0.1, 1]}}
search: {name: optuna, trials: 3}
"""


@pytest.fixture(scope="module")
def database(postgresql: Callable[[str], str]) -> str:
    return postgresql("searches")


def begin(folder: Path, uri: str) -> Search:
    (folder / "tiny.yaml").write_text(SWEEP)
    return Search(make_plan(read_sweep(folder / "tiny.yaml", SCHEMA)), beside(uri), lambda keys: {})


def test_mlflow_and_optuna_share_a_database(database: str, tmp_path: Path) -> None:
    """Each keeps its version in a table alembic_version, so the studies have a schema of their own."""
    client = MlflowClient(database)
    experiment = client.create_experiment("cplearn")
    first = begin(tmp_path, database)
    job = first.more()
    assert job
    again = begin(tmp_path, database).more()
    assert again
    assert again.key == job.key
    while job:
        first.finished(job, TrialResult({"validation/accuracy": 0.5}))
        job = first.more()
    study = optuna.load_study(study_name=None, storage=beside(database))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    client.create_run(experiment)
    assert len(MlflowClient(database).search_runs([experiment])) == 1
    with create_engine(database).connect() as connection:
        where = text("SELECT DISTINCT table_schema FROM information_schema.tables WHERE table_name = :name")
        held = {name: set(connection.scalars(where, {"name": name})) for name in ("studies", "experiments")}
    assert held == {"studies": {"cplearn_studies"}, "experiments": {"public"}}


def test_a_database_that_is_away_is_one_sentence_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot be used: .*refused") as caught:
        begin(tmp_path, "postgresql+psycopg2://sweeper:s3cret@127.0.0.1:1/postgres")
    assert "s3cret" not in str(caught.value)
