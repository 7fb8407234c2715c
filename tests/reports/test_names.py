"""Whatever reports ask a run for, by name, is what a real training gives and the real tracker writes."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from mlflow.entities import Run

import reports
from cplearn import methods, training
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset
from cplearn.evaluate import probe
from frames import arrays, grid, result
from reports import store
from reports.figures import lines, plots, read_samples
from reports.metrics import METRICS
from reports.tables.spec import OF_GRIDS
from runner.events import TrialResult
from runner.machine.resources import describe
from runner.planning.plan import Job
from runner.tracking.tracker import Tracker
from stores import COMMIT, empty_store, made_by, make_plan, sqlite
from sweeps.record import END_TAGS, HARDWARE, PARAMS, Tag
from trials import trial

EVERYTHING = {
    "probe": ["lbfgs", "sgd", "adam"],
    "view_images": 64,
    "lidar": True,
    "gmm_components": [10],
    "online_probe": True,
    "kmeans_restarts": 1,
}
HOUSE = Path(reports.__file__).parent
METRIC = re.compile(r"(probe|probe_sgd|probe_adam|knn|codes|kmeans|collapse|paper|select|validation|train|time)/\w+")
SETTING = re.compile(rf"({re.escape(PARAMS)})?(method|optimizer|backbone|augment|evaluation)\.\w+")


@pytest.fixture(scope="module")
def tracker(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    """What a sweep leaves: a trial that was really trained, one that diverged, one that was stopped early, and what a
    second driver wrote that did not see the claims of the first."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(empty_store(), folder / "mlflow.db")
    trained = training.TrialTraining(trial(epochs=1, evaluation=EVERYTHING), digits)
    epoch = trained.train_epoch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "EPOCHS", 2)
        outcome = trained.evaluate()
    trained.save(folder / "files", outcome)
    files = {
        p.relative_to(folder / "files").as_posix(): p.read_bytes() for p in folder.glob("files/**/*") if p.is_file()
    }
    # Only a node of a cluster that was given a name says so.
    finished = TrialResult(outcome.metrics, files, describe("cpu") | {Tag.NODE.short: "gpu1"})
    jobs = [Job(str(seed), trained.trial, "digits", "f00d", "trial", f"{seed}", {}, ()) for seed in range(3)]
    with made_by(COMMIT):
        plan = make_plan("s", "", {}, "digits", jobs)
        tracker = Tracker(sqlite(folder), plan)
        second = Tracker(sqlite(folder), plan, claim=lambda key: False)
        second.started(jobs[0])
        for job in jobs:
            tracker.started(job)
            tracker.epoch(job, 1, epoch)
        tracker.finished(jobs[0], finished)
        tracker.failed(jobs[1], "FloatingPointError", "diverged")
        tracker.stopped(jobs[2], 1, "cluster collapse", "cluster", TrialResult({}, {}, {}))
        tracker.close("FINISHED")
        second.finished(jobs[0], finished)
        second.close("FINISHED")
    return tracker


def sources() -> Iterator[ast.AST]:
    """Every part of the modules of reports."""
    for path in HOUSE.rglob("*.py"):
        yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def words() -> set[str]:
    """Every text in the modules and specifications of reports."""
    texts = {node.value for node in sources() if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    for path in HOUSE.glob("tables/*.yaml"):
        texts |= {token.value for token in yaml.scan(path.read_text()) if isinstance(token, yaml.ScalarToken)}
    return texts


def first_run(tracker: Tracker) -> Run:
    return tracker.client.get_run(tracker.runs["0"].run_id)


def test_every_tag_that_is_read_is_written(tracker: Tracker) -> None:
    runs = tracker.client.search_runs([tracker.experiment])
    names = {
        node.attr
        for node in sources()
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Tag"
    }
    # A run is only a duplicate where two drivers finish one trial.
    read = {Tag[name] for name in names} | {*HARDWARE, *END_TAGS} - {Tag.DUPLICATE_OF}
    assert len(read) > 20
    assert read <= {tag for run in runs for tag in run.data.tags}


def test_every_metric_that_is_read_is_written(tracker: Tracker) -> None:
    of_runs = {name for name in METRICS if not name.startswith(OF_GRIDS)}
    read = {word for word in words() if METRIC.fullmatch(word)} | of_runs
    any_size = {re.sub(r"entropy_\d+", "entropy_10", name) for name in read}
    assert any_size <= first_run(tracker).data.metrics.keys()


def test_every_setting_that_is_read_is_written() -> None:
    written = {key for name in methods.names() for key in TrialSettings.read({"method": name}).flat()}
    read = {word.removeprefix(PARAMS) for word in words() if SETTING.fullmatch(word)}
    assert {"method.beta", "optimizer.lr"} <= read
    assert read <= written


def test_every_file_is_read_as_it_was_written(tracker: Tracker) -> None:
    run = first_run(tracker).info.run_id
    one = result({"method.beta": [1]}, [{**grid({})[0], "method.beta": 1, "run_id": run}])
    (sample,) = read_samples(one, store.artifact_reader(str(tracker.client.tracking_uri)))
    assert not sample.faults
    assert set(sample.arrays) == arrays().keys()
    assert sample.diagnostics.keys() == {*lines.SPECTRA, "code_counts"}
    assert [plot.name for plot in plots(one, [sample])][-7:] == [
        *("spectrum-paper", "code-usage", "covariance", "adjacency", "projection", "code-images", "neighbours")
    ]
