"""What MLflow's interface shows of a sweep at first sight."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from mlflow.utils.validation import MAX_EXPERIMENT_TAG_VAL_LENGTH

from cplearn.errors import InputError
from runner.tracking import views
from stores import Writer, declare, sqlite, trial_metrics
from support import mlflow_server, needs

BETAS = [0.1, 1, 10]
CHROMIUM = "chromium"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """A sweep over β and, newer, one over the number of codes."""
    folder = tmp_path_factory.mktemp("store")
    writer = Writer(sqlite(folder), folder / "mlruns")
    for name, axis, values in (("beta", "method.beta", BETAS), ("projector", "method.codes", [128, 512])):
        trials = [declare("digits", f"{axis}={value}", {axis: value}, 0) for value in values]
        for value, trial in zip(values, trials, strict=True):
            writer.trial(name, trial, metrics=trial_metrics(value, 0))
        writer.sweep(name, "", {axis: values}, "digits", trials)
    return writer


def test_a_view_compares_the_metrics_along_the_axis_and_fits_into_a_tag() -> None:
    axes = [f"{'method.' * 30}axis{number}" for number in range(20)]
    view = views.view(["method.beta", *axes])
    assert len(json.dumps(view)) < MAX_EXPERIMENT_TAG_VAL_LENGTH
    assert "params.`method.beta`" in view["selectedColumns"]
    along = {chart["yaxis"]["key"]: chart["xaxis"] for chart in view["compareRunCharts"] if "yaxis" in chart}
    assert along.keys() == views.METRICS.keys()
    assert along["codes/ami"] == {"key": "method.beta", "type": "PARAM"}
    of_arms = views.view(["arm"])
    assert "tags.`cplearn.label`" in of_arms["selectedColumns"]
    assert all(chart.get("xaxis", {}).get("key") != "arm" for chart in of_arms["compareRunCharts"])


def test_the_page_is_that_of_the_newest_sweep_or_of_a_name(written: Writer, tmp_path: Path) -> None:
    experiment = written.client.get_experiment(written.experiment)
    newest, named = views.pages(written.uri), views.pages(written.uri, "beta")
    for pages, axis in ((newest, "method.codes"), (named, "method.beta")):
        assert pages["charts"].startswith(pages["table"])
        key = pages["table"].partition("viewStateShareKey=")[2]
        assert f"params.`{axis}`" in experiment.tags[views.SHARED_VIEW + key]
    with pytest.raises(InputError, match="'gamma': the tracking store has no sweep of this name"):
        views.pages(written.uri, "gamma")


@needs(CHROMIUM)
@pytest.mark.long
def test_a_browser_finds_the_numbers_on_the_page(written: Writer, tmp_path: Path) -> None:
    command = [shutil.which(CHROMIUM) or CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1500,1000", "--virtual-time-budget=30000"]
    with mlflow_server(written.uri, tmp_path / "server") as address:
        page = f"{address}/{views.pages(written.uri, 'beta')['table']}"
        done = subprocess.run([*command, page], capture_output=True, text=True, timeout=200, check=True)
    for value in BETAS:
        numbers = trial_metrics(value, 0)
        for shown in (value, *(numbers[name] for name in ("probe/accuracy", "codes/ami", "collapse/codes_used"))):
            assert f">{shown}<" in done.stdout
