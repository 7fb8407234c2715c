"""Reports against a real MLflow store that holds what a sweep leaves behind, its mishaps included."""

from __future__ import annotations

import dataclasses
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from reports import build, provenance, store
from reports.build import inputs_of, keep, kept
from reports.render import terminal
from reports.store.trials import LOOKUPS
from stores import AWKWARD, BETAS, Writer, baseline_metrics, declare, empty_store, sqlite, trial_metrics
from support import free_port, mlflow_server, needs, run_cli
from sweeps.errors import UserError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """Three sweeps. `beta`: of 9 β x 2 seeds, one trial failed, one was never run, one was run under another sweep, one
    failed before it finished, one finished twice. `mixed`: two axes, one of words, one seed, and names that need
    escaping. `broken`: its only trial failed."""
    folder = tmp_path_factory.mktemp("store")
    writer = Writer(sqlite(folder), folder / "mlartifacts")
    names = {"raw pixels": 0.961, "random backbone": 0.56}
    trials = [declare("digits", name, {}, seed, "baseline") for name in names for seed in (0, 1)]
    trials += [declare("digits", f"β={beta:g}", {"method.beta": beta}, seed) for seed in (0, 1) for beta in BETAS]
    for trial in trials:
        beta, seed = trial["point"].get("method.beta"), trial["seed"]
        if beta is None:
            writer.trial("beta", trial, metrics=baseline_metrics(names[trial["label"]]))
        elif (beta, seed) == (2.5, 1):
            error = "Traceback:\n  ...\nFloatingPointError: the loss became nan in epoch 3"
            writer.trial("beta", trial, "FAILED", error, {"probe/accuracy": 0.123})
        elif (beta, seed) != (5, 1):
            if (beta, seed) == (0.1, 0):
                writer.trial("beta", trial, "FAILED", "MemoryError", {"probe/accuracy": 0.1})
            if (beta, seed) == (1, 0):
                writer.trial("beta", trial, metrics=trial_metrics(beta, seed) | {"probe/accuracy": 0.2})
            sweep = "earlier" if beta == 0.05 else "beta"
            writer.trial(sweep, trial, metrics=trial_metrics(beta, seed), settings={"method.codes": 2048})
    writer.sweep("beta", "an older manifest", {"method.beta": BETAS[:1]}, "digits", trials[:2])
    writer.sweep("beta", "CPLearn over the weight β of the invariance term", {"method.beta": BETAS}, "digits", trials)

    axes: dict[str, list[Any]] = {"method.codes": [10, 16384], "augment.recipe": ["paper_x", "none & 100%"]}
    slug = "folder-awkward-f00dfe"
    trials = [declare(slug, "raw_pixels|#", {}, 0, "baseline")]
    writer.trial("mixed", trials[0], metrics=baseline_metrics(0.4))
    for codes in axes["method.codes"]:
        for recipe in axes["augment.recipe"]:
            point = {"method.codes": codes, "augment.recipe": recipe}
            trials.append(declare(slug, f"codes={codes} recipe={recipe}", point, 0))
            writer.trial("mixed", trials[-1], metrics=trial_metrics(0.5, 0) | {"codes/ami": -0.0001})
    writer.sweep("mixed", r"100% of \codes, _not_ ~all~ <b>", axes, AWKWARD, trials)

    lone = declare("digits", "lr=1e38", {"optimizer.lr": 1e38}, 0)
    writer.trial("broken", lone, "FAILED", "FloatingPointError: the loss became inf")
    writer.sweep("broken", "", {"optimizer.lr": [1e38]}, "digits", [lone])
    return writer


@pytest.fixture(scope="module")
def reports(written: Writer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, build.Report]:
    """What is built of the sweeps `beta` and `mixed`."""
    results = tmp_path_factory.mktemp("results")
    return {name: build.build(written.uri, name, results)[0] for name in ("beta", "mixed")}


def finished_runs(uri: str, keys: Collection[str] | None = None) -> dict[str, str]:
    records = store.trial_records(uri, keys)
    return {key: record.run_id for key, record in records.items() if record.status == "FINISHED"}


def test_finished_trials_are_found_by_key(written: Writer) -> None:
    found = finished_runs(written.uri)
    assert len(found) == 4 + 16 + 5
    assert found["digits/β=1/0"] == written.runs["digits/β=1/0"], "the newest of two"
    assert found["digits/β=0.1/0"] == written.runs["digits/β=0.1/0"], "the finished one of two"
    assert found.keys() >= {"digits/β=0.05/0"}
    assert not found.keys() & {"digits/β=2.5/1", "digits/β=5/1", "digits/lr=1e38/0"}
    few = {"digits/β=1/0", "digits/β=2.5/1"}
    assert finished_runs(written.uri, few) == {"digits/β=1/0": found["digits/β=1/0"]}
    many = [*found, *(f"other-{number}" for number in range(LOOKUPS))]
    assert finished_runs(written.uri, many) == found


def test_a_sweep_is_read_as_its_newest_manifest_declares_it(written: Writer) -> None:
    assert set(store.list_sweeps(written.uri)) == {"beta", "mixed", "broken"}
    (result,) = store.read_sweep(written.uri, "beta")
    assert result.description.startswith("CPLearn over")
    assert (result.slug, result.axes, result.seeds) == ("digits", {"method.beta": BETAS}, [0, 1])
    runs = result.runs.set_index("key")
    assert len(runs) == 4 + 18
    assert runs["status"].value_counts().to_dict() == {"FINISHED": 20, "FAILED": 1, "MISSING": 1}
    assert runs["status"]["digits/β=2.5/1"] == "FAILED"
    assert runs["error"]["digits/β=2.5/1"].endswith("epoch 3")
    assert runs["sweep"]["digits/β=0.05/0"] == "earlier"
    assert runs["probe/accuracy"]["digits/β=1/0"] == trial_metrics(1, 0)["probe/accuracy"]
    assert runs["params.method.codes"]["digits/β=1/0"] == "2048"
    assert runs["tags.git_commit"]["digits/β=1/0"] == "c0ffee"
    assert [repr(beta) for beta in runs["method.beta"][4:13]] == [repr(beta) for beta in BETAS]


def test_a_report_may_have_no_figures(written: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reports.figures.plots", lambda result, shown, importance: [])
    (report,) = build.build(written.uri, "mixed", tmp_path)
    assert (report.folder / "report.html").is_file()


def markdown_table(report: build.Report) -> list[list[str]]:
    lines = (report.folder / "table.md").read_text().splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines if line.startswith("|")]


def test_the_markdown_table_holds_the_numbers_of_the_runs(reports: dict[str, build.Report]) -> None:
    heading, _, *rows = markdown_table(reports["beta"])
    assert heading[:4] == ["β", "Linear acc.", "k-NN acc.", "NMI (codes)"]
    assert [row[0] for row in rows] == [
        *("*raw pixels*", "*random backbone*"),
        *("0.01", "0.05", "0.1", "0.25", "0.5", "1", "2.5 (n=1)", "5 (n=1)", "10"),
    ]
    assert {len(row) for row in rows} == {len(heading)}
    cells = {row[0]: dict(zip(heading, row, strict=True)) for row in rows}
    two = [trial_metrics(0.1, seed)["codes/ami"] for seed in (0, 1)]
    assert cells["0.1"]["AMI (codes)"] == f"{np.mean(two):.3f} ± {np.std(two, ddof=1):.3f}"
    assert cells["2.5 (n=1)"]["Linear acc."] == f"{trial_metrics(2.5, 0)['probe/accuracy']:.3f}", (
        "the failed run is out"
    )
    assert cells["10"]["Codes used"] == "4"
    assert cells["*raw pixels*"]["Linear acc."] == "0.961 ± 0.000"
    assert cells["*raw pixels*"]["AMI (codes)"] == "–"
    assert not any("**" in cell for row in rows for cell in row), "two seeds support no best among seven"
    assert "Nothing is bold, since no difference" in (reports["beta"].folder / "table.md").read_text()


def test_caption_and_notes_say_what_stands_there_and_what_does_not(
    written: Writer, reports: dict[str, build.Report]
) -> None:
    text = (reports["beta"].folder / "table.md").read_text()
    assert "Mean ± sample standard deviation over n = 2 seeds (0, 1)." in text
    assert "test split (360 images) after the last of 20 epochs; no model was selected by them" in text
    assert "- β = 2.5: seed 1 failed (FloatingPointError: the loss became nan in epoch 3).\n" in text
    assert "- β = 5: seed 1 missing.\n" in text
    behind = ", ".join(
        f"seed {seed} `{written.runs[key]}` (key `{key}`)" for seed in (0, 1) for key in [f"digits/β=1/{seed}"]
    )
    assert f"- β = 1: {behind}\n" in text
    assert "batch\\_size=64, epochs=20, method.codes=2048" in text
    assert "One seed (0), n = 1, so no spread is known." in (reports["mixed"].folder / "table.md").read_text()


def test_runs_csv_has_every_trial(written: Writer, reports: dict[str, build.Report]) -> None:
    runs = pd.read_csv(reports["beta"].folder / "runs.csv", index_col="key")
    assert len(runs) == 22
    assert runs["status"]["digits/β=5/1"] == "MISSING"
    assert runs["run_id"]["digits/β=1/0"] == written.runs["digits/β=1/0"]
    for name, value in trial_metrics(0.25, 1).items():
        assert runs[name]["digits/β=0.25/1"] == value


def test_the_figure_is_drawn_from_the_same_numbers(reports: dict[str, build.Report]) -> None:
    folder = reports["beta"].folder / "figures"
    numbers = pd.read_csv(folder / "beta.csv")
    probe = numbers[(numbers["metric"] == "probe/accuracy") & numbers["x"].notna()].set_index("x")
    assert probe.index.tolist() == BETAS
    assert probe["n"].tolist() == [2, 2, 2, 2, 2, 2, 1, 1, 2]
    two = [trial_metrics(0.5, seed)["probe/accuracy"] for seed in (0, 1)]
    assert probe.loc[0.5, ["mean", "std", "seed 0", "seed 1"]].tolist() == pytest.approx(
        [np.mean(two), np.std(two, ddof=1), *two]
    )
    baselines = numbers[numbers["x"].isna()].set_index("line")["mean"]
    assert baselines.to_dict() == pytest.approx({"raw pixels": 0.961, "random backbone": 0.56})
    assert set(numbers["metric"]) >= {"codes/nmi", "codes/nmi_chance", "codes/ami", "collapse/codes_used"}
    assert (folder / "beta.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "beta.pdf").read_bytes().startswith(b"%PDF")


@needs("pdflatex")
@pytest.mark.parametrize("name", ["beta", "mixed"])
def test_the_latex_table_compiles_and_fits_the_page(
    written: Writer, reports: dict[str, build.Report], name: str, tmp_path: Path
) -> None:
    shutil.copy(reports[name].folder / "table.tex", tmp_path)
    (tmp_path / "paper.tex").write_text(PAPER)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout
    assert f"{written.runs['digits/β=1/0']}" in (reports["beta"].folder / "table.tex").read_text()


PAPER = r"""
\documentclass[twocolumn]{article}
\usepackage{booktabs, siunitx}
\setlength{\textwidth}{6.75in}
\begin{document}
\input{table.tex}
Text.
\end{document}
"""


def test_the_same_runs_give_the_same_files_and_a_sweep_without_results_does_not_keep_others_from_theirs(
    written: Writer, reports: dict[str, build.Report], tmp_path: Path
) -> None:
    code, output = run_cli(tmp_path, "report", "--tracking-uri", written.uri)
    assert code == 0, output
    assert "sweep 'broken' has no finished trial to report on" in output
    results = tmp_path / "results"
    assert {path.name for path in results.iterdir()} == {"beta", "mixed"}
    for name, report in reports.items():
        first = report.folder.parents[1]
        files = [path.relative_to(results) for path in (results / name).rglob("*") if path.is_file()]
        assert {file for file in files if not file.name.startswith(".")} == {f.relative_to(first) for f in report.files}
        for file in files:
            assert (results / file).read_bytes() == (first / file).read_bytes(), file
        assert [path.name for path in (results / name).iterdir()] == [report.dataset], "nothing is left behind"
    code, output = run_cli(tmp_path, "report", "broken", "--tracking-uri", written.uri)
    assert code == 2, output


def test_a_report_is_kept_as_long_as_its_inputs_and_its_files_are_the_same(written: Writer, tmp_path: Path) -> None:
    (result,) = store.read_sweep(written.uri, "mixed")
    inputs = inputs_of(result, {})
    assert kept(tmp_path, inputs) is None
    files = (tmp_path / "table.md", tmp_path / "figures" / "one.png")
    files[1].parent.mkdir()
    for path in files:
        path.write_text(path.name)
    keep(tmp_path, inputs, files)
    assert kept(tmp_path, inputs_of(store.read_sweep(written.uri, "mixed")[0], {})) == files
    for changed in (
        inputs_of(result, {"where": "elsewhere"}),
        inputs_of(dataclasses.replace(result, runs=result.runs.assign(status="FAILED")), {}),
        inputs_of(dataclasses.replace(result, seeds=[0, 1]), {}),
    ):
        assert kept(tmp_path, changed) is None
    files[0].write_text("edited")
    assert kept(tmp_path, inputs) is None
    files[0].unlink()
    assert kept(tmp_path, inputs) is None


def test_a_report_that_lacks_something_is_made_anew(written: Writer, tmp_path: Path) -> None:
    for _ in range(2):
        (report,) = build.build(written.uri, "mixed", tmp_path)
        assert report.notes
        assert (report.is_new, report.inputs) == (True, "")


@pytest.mark.parametrize(("name", "width"), [("beta", 140), ("beta", 100), ("beta", 60), ("mixed", 80)])
def test_the_terminal_table_fits_without_breaking_numbers(
    reports: dict[str, build.Report], name: str, width: int
) -> None:
    console = Console(width=width, color_system=None, record=True)
    with console.capture() as capture:
        console.print(terminal.render_sweep(reports[name].table, width))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(line for line in lines if "n=" not in line)
    table = reports[name].table
    for row in (*table.baselines, *table.rows):
        shown = next(line for line in lines if line.strip().startswith(row.head[0]))
        assert row.cells[0].mean in shown
    heading = " ".join(" ".join(lines[:6]).split())
    assert "AMI" in heading
    assert ("NMI" in heading) <= ("(chance)" in heading), "an NMI never stands without its chance level"


def test_the_metrics_that_decide_come_first_and_the_rest_on_request(reports: dict[str, build.Report]) -> None:
    table = reports["beta"].table
    drawn = terminal.render_sweep(table, 200)
    headings = [" ".join(str(column.header).split()) for column in drawn.columns]
    assert headings[1:4] == ["Linear acc.", "AMI (codes)", "Codes used"]
    assert (drawn.width or 200) <= 80, "on any wide terminal"
    left_out = [column.heading for column in table.columns if column.heading not in headings]
    assert left_out
    assert all(heading in str(drawn.caption) for heading in left_out)
    console = Console(width=100, color_system=None)
    with console.capture() as capture:
        console.print(terminal.render_table(table, 100))
    whole = " ".join(capture.get().split())
    assert all(heading.split(" ", 1)[0] in whole for heading in left_out)


def test_folders_of_one_name_are_told_apart_and_found_by_their_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither folder is there any more: what counts is what the store says. The sweep has no axes."""
    writer = Writer(sqlite(tmp_path), tmp_path / "artifacts")
    slugs = {"birds": "folder-images-aaaaaa", "cats": "folder-images-bbbbbb"}
    for (name, slug), accuracy in zip(slugs.items(), (0.25, 0.75), strict=True):
        trial = declare(slug, "", {}, 0)
        writer.trial("tiny", trial, metrics={"probe/accuracy": accuracy})
        writer.sweep("tiny", "", {}, f"folder:{tmp_path}/{name}/images", [trial])
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    status, output = run_cli(tmp_path, "report", "--dataset", "folder:birds/images", "--results=~/out")
    assert status == 0, output
    assert "tiny on images-aaaaaa" in " ".join(output.split())
    (folder,) = (tmp_path / "home" / "out" / "tiny").iterdir()
    assert folder.name == slugs["birds"]
    assert list(pd.read_csv(folder / "table.csv").loc[0, ["row", "mean"]]) == ["tiny", 0.25]
    for kind, row in {"md": "| tiny |", "tex": "{tiny} &", "html": ">tiny<"}.items():
        assert row in (folder / f"table.{kind}").read_text(), kind
    for command in (["report"], ["report", "tiny"]):
        status, output = run_cli(tmp_path, *command, "-d", "folder:owls/images")
        assert status == 2
        assert all(f"{slug} (folder:{tmp_path}/{name}/images)" in output for name, slug in slugs.items())
    found = {result.slug: result.runs["probe/accuracy"][0] for result in store.read_sweep(writer.uri, "tiny")}
    assert found == {slugs["birds"]: 0.25, slugs["cats"]: 0.75}
    assert [result.slug for result in store.read_sweep(writer.uri, "tiny", [slugs["cats"]])] == [slugs["cats"]]


def store_without_tables(folder: Path) -> str:
    (folder / "mlflow.db").touch()
    return sqlite(folder)


def store_of_words(folder: Path) -> str:
    (folder / "mlflow.db").write_text("not a database, but a file of some length that says so")
    return sqlite(folder)


def store_of_another_version(folder: Path) -> str:
    shutil.copy(empty_store(), folder / "mlflow.db")
    with closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'old'")
    return sqlite(folder)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (sqlite, "does not exist; run a sweep first"),
        (store_without_tables, "is empty; run a sweep first"),
        (store_of_words, "cannot be read: file is not a database"),
        (
            store_of_another_version,
            r"another version of MLflow; copy the database, then run: mlflow db upgrade sqlite:",
        ),
        (lambda _: "http://127.0.0.1:9", "does not answer"),
    ],
)
def test_a_store_that_is_not_there_is_said_in_one_sentence(prepare: Any, message: str, tmp_path: Path) -> None:
    uri = prepare(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=message):
        build.build(uri, "beta", tmp_path / "results")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before, "a reader creates nothing"


def test_each_command_says_how_to_upgrade_a_store_of_another_version(tmp_path: Path) -> None:
    store_of_another_version(tmp_path)
    (tmp_path / "tiny.yaml").write_text("sweep: tiny\nsettings: {epochs: 1}\n")
    for command in (["ui", "--port", str(free_port())], ["report"], ["sweep", "tiny.yaml", "--gpus-per-trial", "0"]):
        status, said = run_cli(tmp_path, *command)
        assert (status, said.count("\n")) == (2, 1), said
        assert f"then run: mlflow db upgrade sqlite:///{tmp_path}/mlflow.db" in said


def test_a_store_that_does_not_exist_yet_has_no_finished_trials(tmp_path: Path) -> None:
    assert finished_runs(sqlite(tmp_path)) == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "datasets", "message"),
    [
        ("betta", None, r"did you mean 'beta'.*known sweeps: beta, broken, mixed"),
        ("broken", None, r"no finished trial to report on \(1 failed\)"),
        ("beta", ["svhn"], "was not run on 'svhn', only on: digits"),
    ],
)
def test_what_cannot_be_reported_is_said(
    written: Writer, name: str, datasets: list[str] | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        build.build(written.uri, name, tmp_path, datasets)
    assert not list(tmp_path.iterdir())


def test_an_experiment_of_another_name_is_asked_for(written: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "other")
    with pytest.raises(UserError, match="no experiment 'other'"):
        store.list_sweeps(written.uri)


def test_results_that_cannot_be_written_are_said(written: Writer, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write to .*results"):
        build.build(written.uri, "beta", tmp_path / "results")


def test_the_model_of_a_run_is_found(written: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", written.uri)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    run = written.runs["digits/β=1/0"]
    written.client.log_artifacts(run, str(tmp_path))
    assert (store.download_model(run) / "config.json").read_text() == "{}"
    for bad, message in {
        "results/beta": "is not a run id",
        "0" * 32: f"no run {'0' * 32}",
        written.runs["digits/β=2.5/1"]: "has no model",
    }.items():
        with pytest.raises(LookupError, match=message):
            store.download_model(bad)


def test_reports_load_neither_torch_nor_ray(root: Path) -> None:
    code = (
        "import sys, reports; early = set(sys.modules); import reports.build, reports.render.terminal; "
        "print(sorted({'torch', 'ray', 'mlflow'} & set(sys.modules)), sorted({'pandas', 'matplotlib'} & early))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] []"


@pytest.fixture
def server(written: Writer, tmp_path: Path) -> Iterator[str]:
    """The address of a tracking server on the same database, with artifacts of its own."""
    with mlflow_server(written.uri, tmp_path / "server") as address:
        yield address


def test_a_remote_server_serves_as_well_as_a_file(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "remote")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    writer = Writer(server, experiment="remote")
    trials = [declare("digits", f"β={beta}", {"method.beta": beta}, 0) for beta in (0.1, 1)]
    for trial in trials:
        writer.trial("beta", trial, metrics=trial_metrics(trial["point"]["method.beta"], 0))
    writer.sweep("beta", "", {"method.beta": [0.1, 1]}, "digits", trials)
    run = writer.runs[trials[0]["key"]]
    writer.client.log_text(run, "{}", "model/config.json")
    (report,) = build.build(None, "beta", tmp_path / "results")
    assert [row.head for row in report.table.rows] == [("0.1",), ("1",)]
    link = f"{server}/#/experiments/{writer.experiment}/runs/{run}"
    assert f"[`{run}`]({link})" in (report.folder / "table.md").read_text()
    assert f'href="{link}"' in (report.folder / "table.html").read_text()
    (checked,) = provenance.verify(None, report.folder)
    assert checked.numbers
    assert not checked.drift
    assert (store.download_model(run) / "config.json").read_text() == "{}"
