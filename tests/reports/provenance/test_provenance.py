"""The paper's tables from a real MLflow store: what they show, whether it still holds, and what is behind a cell."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from reports import build, provenance
from reports.render import terminal
from reports.tables import spec
from reports.tables.model import Row
from runner.cli import app
from stores import Writer, declare, sqlite
from support import needs
from sweeps.addresses import store_file
from sweeps.errors import StoreError, UserError
from sweeps.record import SWEEP, Tag, tag_is

SEEDS = (0, 1, 2)
NOISE = {0: -0.01, 1: 0.0, 2: 0.011}
ACCURACY = {"barlow_twins": 0.60, "swav": 0.45, "cplearn": 0.70}
COMMAND = "cplearn train --dataset svhn --set method=swav"


def metrics(method: str, codes: int | None, beta: float | None, seed: int) -> dict[str, float]:
    """The validation split prefers β = 0.1, the test split β = 1."""
    accuracy = ACCURACY[method] + (0.05 if beta == 1 else 0) + NOISE[seed]
    validation = 0.8 if beta == 0.1 else 0.7
    found = {"probe/accuracy": accuracy, "validation/accuracy": validation + NOISE[seed], "codes/ami": 0.1}
    return found | {"codes/nmi": 0.3 + 0.01 * seed + (0.01 if codes == 16384 else 0), "codes/nmi_chance": 0.2}


def write(writer: Writer) -> None:
    """A sweep `t1` on two data sets. Of SwAV with c = 128 on SVHN seed 1 failed, on CIFAR-10 none has been run. Of
    Barlow Twins on CIFAR-10 seed 2 was never run."""
    for dataset in ("svhn", "cifar10"):
        trials = []
        points: list[tuple[str, dict[str, Any]]] = [("barlow_twins", {})]
        points += [("swav", {"method.codes": codes}) for codes in (128, 16384)]
        points += [("cplearn", {"method.codes": c, "method.beta": beta}) for c in (128, 16384) for beta in (0.1, 1)]
        for seed in SEEDS:
            for method, point in points:
                label = " ".join([method, *(f"{key}={value}" for key, value in point.items())])
                trial = declare(dataset, label, {"arm": method, **point}, seed)
                trials.append(trial)
                if (dataset, method, point.get("method.codes")) == ("cifar10", "swav", 128):
                    continue
                if (dataset, method, seed) == ("cifar10", "barlow_twins", 2):
                    continue
                broken = (dataset, method, point.get("method.codes"), seed) == ("svhn", "swav", 128, 1)
                settings = {"method.name": method, "dataset": dataset, "backbone.name": "resnet8", **point}
                run = writer.trial(
                    "t1",
                    {**trial, "point": {}},
                    "FAILED" if broken else "FINISHED",
                    "Traceback\nFloatingPointError: the loss became nan" if broken else None,
                    None if broken else metrics(method, point.get("method.codes"), point.get("method.beta"), seed),
                    settings,
                )
                if method == "swav":
                    writer.client.set_tag(run, Tag.COMMAND, f"{COMMAND} --set seed={seed}")
        axes = {"arm": list(ACCURACY), "method.codes": [128, 16384], "method.beta": [0.1, 1]}
        writer.sweep("t1", "", axes, dataset, trials)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    folder = tmp_path_factory.mktemp("store")
    writer = Writer(sqlite(folder), folder / "artifacts")
    write(writer)
    return writer


@pytest.fixture(scope="module")
def made(written: Writer, tmp_path_factory: pytest.TempPathFactory) -> build.Report:
    return build.build_table(written.uri, "table1", tmp_path_factory.mktemp("results"), ["t1"])


@pytest.fixture(scope="module")
def of_sweep(written: Writer, tmp_path_factory: pytest.TempPathFactory) -> list[build.Report]:
    """The sweep's own reports, of CIFAR-10 and of SVHN."""
    return build.build(written.uri, "t1", tmp_path_factory.mktemp("results"))


@pytest.fixture
def own(written: Writer, tmp_path: Path) -> Writer:
    """The same store, to write into."""
    shutil.copy(written.uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    return written.of(sqlite(tmp_path))


def rows(report: build.Report, block: str) -> dict[str, Row]:
    return {row.label: row for row in report.table.rows if row.block == block}


def column(report: build.Report, heading: str) -> int:
    return [one.heading for one in report.table.columns].index(heading)


def test_methods_stand_beside_data_sets_and_dictionary_sizes(made: build.Report) -> None:
    assert [one.heading for one in made.table.columns] == [
        f"{data}, c = {size}" for data in ("SVHN", "CIFAR-10") for size in ("–", "128", "16,384")
    ]
    linear = rows(made, "Linear acc.")
    assert list(linear) == ["Barlow Twins", "SwAV", "CPLearn"]
    assert list(dict.fromkeys(row.block for row in made.table.rows)) == [
        "NMI (codes)",
        "NMI (chance)",
        "AMI (codes)",
        "Linear acc.",
    ]
    cell = linear["Barlow Twins"].cells[column(made, "SVHN, c = –")]
    values = [0.60 + noise for noise in NOISE.values()]
    assert cell.number is not None
    assert (cell.number.mean, cell.number.std, cell.number.n) == pytest.approx(
        (np.mean(values), np.std(values, ddof=1), 3)
    )
    assert (cell.mean, cell.std, cell.published, cell.difference) == ("0.60", "0.01", 0.76, "-0.16")
    nothing = linear["Barlow Twins"].cells[column(made, "SVHN, c = 128")]
    assert (nothing.mean, nothing.metric) == ("", ""), "a method without a dictionary has no size of it"


def test_the_validation_split_chooses_and_not_the_test_split(made: build.Report) -> None:
    cell = rows(made, "Linear acc.")["CPLearn"].cells[column(made, "SVHN, c = 16,384")]
    assert cell.number is not None
    assert cell.number.mean == pytest.approx(np.mean([0.70 + noise for noise in NOISE.values()]))
    assert {choice.chosen for choice in made.table.choices} == {"0.1"}
    assert len(made.table.choices) == 4, "one for each data set and size"
    told = "The weight of each method (λ, τ, column temperature, β) was chosen for each cell by the highest mean valid"
    assert told in " ".join(made.table.caption)
    among = "β chosen by validation/accuracy among 2 settings: "
    assert any(note.startswith(among) and "CPLearn, SVHN, 16,384: 0.1" in note for note in made.table.notes)


def test_runs_are_listed_once_with_every_number_they_are_behind(made: build.Report) -> None:
    listed = (made.folder / "table.md").read_text().partition("<summary>Runs behind the numbers</summary>")[2]
    lines = [line for line in listed.splitlines() if "key `" in line]
    cells = [cell for row in made.table.all_rows for cell in row.cells if cell.sources]
    assert len(lines) == len({cell.sources for cell in cells}) < len(cells) / 2
    (line,) = [line for line in lines if line.startswith("- SwAV, SVHN, c = 16,384:")]
    for block, number in {"NMI (codes)": "0.32", "NMI (chance)": "0.20", "Linear acc.": "0.45"}.items():
        assert f"{block} {number}" in line
    assert line.count("key `") == len(SEEDS)
    latex = (made.folder / "table.tex").read_text()
    keys = re.findall(r"^% .*, seed \d+: .*, key (.+), \w+$", latex, re.MULTILINE)
    assert sorted(keys) == sorted({source.key for cell in cells for source in cell.sources}), "each trial once"


@pytest.mark.parametrize("width", [50, 80, 200])
def test_a_wide_table_is_printed_in_parts_that_fit_the_terminal(made: build.Report, width: int) -> None:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(terminal.render_table(made.table, width))
    assert isinstance(console.file, io.StringIO)
    told = console.file.getvalue()
    assert "…" not in told, "nothing is cut"
    assert told.count("Barlow Twins") >= 4 * (1 if width == 200 else 2), "each part has the heads of the rows"
    for number in {cell.mean for row in made.table.all_rows for cell in row.cells if not cell.empty}:
        assert number in told
    tops = [set(line.split()) for line in told.splitlines() if line.strip() and {*line.split()} <= {"SVHN", "CIFAR-10"}]
    assert tops, "headings of the columns"
    assert all(len(top) == (2 if width == 200 else 1) for top in tops), "parts break between data sets"


def test_what_is_missing_is_marked_and_never_averaged_away(made: build.Report) -> None:
    linear = rows(made, "Linear acc.")
    failed = linear["SwAV"].cells[column(made, "SVHN, c = 128")]
    assert (failed.n, failed.mean) == (2, "0.45")
    assert linear["SwAV"].cells[column(made, "CIFAR-10, c = 128")].mean == "missing"
    assert linear["Barlow Twins"].cells[column(made, "CIFAR-10, c = –")].n == 2
    notes = "\n".join(made.table.notes)
    assert "SwAV, SVHN, c = 128: seed 1 failed (FloatingPointError: the loss became nan)." in notes
    assert "Barlow Twins, CIFAR-10, c = –: seed 2 missing." in notes


def test_best_is_marked_column_by_column_among_complete_cells(made: build.Report) -> None:
    linear = rows(made, "Linear acc.")
    place = column(made, "SVHN, c = 16,384")
    assert {label: row.cells[place].bold for label, row in linear.items() if row.cells[place].metric} == {
        "SwAV": False,
        "CPLearn": False,
    }, "differences that are all the same have no spread: three signs alone are no support"
    assert "Nothing is bold" in made.table.statistics[0]


def test_csv_and_json_hold_every_number_at_full_precision(made: build.Report, written: Writer) -> None:
    with (made.folder / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    (line,) = (
        one for one in lines if (one["block"], one["row"], one["column"]) == ("Linear acc.", "CPLearn", "SVHN, c = 128")
    )
    keys = [f"svhn/cplearn method.codes=128 method.beta=0.1/{seed}" for seed in SEEDS]
    assert line["run_ids"].split() == [written.runs[key] for key in keys]
    assert float(line["mean"]) == np.mean([0.70 + noise for noise in NOISE.values()])
    document = json.loads((made.folder / "table.json").read_text())
    assert document["made_from"]["sweeps"] == ["t1"]
    assert {source["key"] for group in document["sources"] for source in group} >= set(keys)


@needs("pdflatex")
def test_the_latex_table_is_a_document_of_its_own(made: build.Report, tmp_path: Path) -> None:
    shutil.copy(made.folder / "table.tex", tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Overfull" not in done.stdout
    assert (tmp_path / "table.pdf").stat().st_size > 1000


def test_html_leads_from_each_number_to_its_runs(made: build.Report, written: Writer) -> None:
    page = (made.folder / "table.html").read_text()
    targets = set(re.findall(r'href="#(runs-\d+)"', page))
    assert targets
    assert targets <= set(re.findall(r'id="(runs-\d+)"', page))
    assert written.runs["svhn/barlow_twins/0"] in page
    assert "<script" not in page
    assert "http" not in page


def test_a_table_that_holds_is_verified(
    made: build.Report, of_sweep: list[build.Report], written: Writer, tmp_path: Path
) -> None:
    shutil.copytree(made.folder, tmp_path / "tables" / "table1")
    shutil.copytree(of_sweep[0].folder.parent, tmp_path / "t1")
    checked = provenance.verify(written.uri, tmp_path)
    assert [one.folder.name for one in checked] == ["cifar10", "svhn", "table1"]
    assert all(one.numbers and not one.drift for one in checked)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("table.md", "0.60 ± 0.01", "0.80 ± 0.01", r"table.md, line \d+: '0.80 ± 0.01' should be '0.60 ± 0.01'"),
        ("table.tex", "{\\tiny(-0.16)}", "{\\tiny(+0.16)}", r"table.tex, line \d+: .*\+0.16.* should be .*-0.16"),
        ("table.csv", ",0.76,", ",0.77,", r"table.csv, line \d+: '0.77' should be '0.76'"),
        ("numbers.tex", "{0.60}", "{0.61}", r"numbers.tex, line \d+: .*0.61.* should be .*0.60"),
        ("numbers.json", '"text": "0.60"', '"text": "0.61"', r"numbers.json, line \d+: .*0.61.* should be .*0.60"),
        ("table.html", "<small> ± 0.01</small>", "<small> ± 0.00</small>", r"table.html, line \d+"),
        ("table.json", '"mean": 0.600', '"mean": 0.601', r"Linear acc., Barlow Twins, .*: the table has 0.601"),
        ("table.json", '"chosen": "0.1"', '"chosen": "1"', r"method.beta = 1 was chosen by validation/accuracy"),
        ("table.json", '"bold": false', '"bold": true', r"in bold should be '"),
        ("table.json", '"metric"', '"metrik"', r"cannot be made any more: its specification: metric must stand once"),
    ],
)
def test_a_number_that_was_changed_is_drift(
    made: build.Report, written: Writer, tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    shutil.copytree(made.folder, tmp_path / "table1")
    path = tmp_path / "table1" / file
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))
    (checked,) = provenance.verify(written.uri, path)
    assert re.search(message, "\n".join(checked.drift)), checked.drift


def test_runs_that_changed_are_drift(made: build.Report, own: Writer) -> None:
    trial = declare("svhn", "barlow_twins", {}, 0)
    old = own.runs[trial["key"]]
    settings = {"method.name": "barlow_twins", "dataset": "svhn"}
    new = own.trial("t1", trial, metrics={"probe/accuracy": 0.9}, settings=settings)
    (checked,) = provenance.verify(own.uri, made.folder)
    assert f"trial {trial['key']}, seed 0: the table has {old} (finished), MLflow now {new} (finished)" in checked.drift
    own.client.delete_run(new)
    own.client.log_metric(old, "probe/accuracy", 0.2, step=21)
    (checked,) = provenance.verify(own.uri, made.folder)
    assert any("Linear acc., Barlow Twins, SVHN, c = –: the table has 0.600333" in one for one in checked.drift)


def test_a_file_that_is_gone_is_drift(made: build.Report, written: Writer, tmp_path: Path) -> None:
    shutil.copytree(made.folder, tmp_path / "table1")
    (tmp_path / "table1" / "table.tex").unlink()
    (checked,) = provenance.verify(written.uri, tmp_path)
    assert checked.drift == ("table.tex: is missing",)


def test_tables_of_versions_without_numbers_are_whole(made: build.Report, written: Writer, tmp_path: Path) -> None:
    shutil.copytree(made.folder, tmp_path / "table1")
    (tmp_path / "table1" / "numbers.tex").unlink()
    (checked,) = provenance.verify(written.uri, tmp_path)
    assert checked.drift == ("numbers.tex: is missing",)
    (tmp_path / "table1" / "numbers.json").unlink()
    (checked,) = provenance.verify(written.uri, tmp_path)
    assert checked.drift == ()


@pytest.mark.parametrize("words", [["SVHN", "SwAV", "16384", "linear"], ["svhn", "swaw", "c=16,384", "Linear acc."]])
def test_a_cell_is_found_by_what_it_is_called(made: build.Report, written: Writer, words: list[str]) -> None:
    (traced,) = provenance.trace(written.uri, made.folder / "table.tex", words)
    assert traced.where == "Linear acc., SwAV, SVHN, c = 16,384"
    assert [run.value for run in traced.runs] == [0.45 + noise for noise in NOISE.values()]
    assert [run.command for run in traced.runs] == [f"{COMMAND} --set seed={seed}" for seed in SEEDS]
    assert traced.runs[0].settings["method.codes"] == "16384"


def test_a_choice_is_traced_with_its_candidates(made: build.Report, written: Writer) -> None:
    (traced,) = provenance.trace(written.uri, made.folder / "table.md", ["cplearn", "SVHN", "128", "probe/accuracy"])
    assert traced.chosen.startswith("method.beta = 0.1 chosen by mean validation/accuracy (0.1: 0.8003, 1: 0.7003)")


def drift(writer: Writer, folder: Path) -> list[str]:
    return [line for one in provenance.verify(writer.uri, folder) for line in one.drift]


def test_a_run_that_was_deleted_is_drift(made: build.Report, own: Writer) -> None:
    key = "svhn/swav method.codes=16384/2"
    own.client.delete_run(own.runs[key])
    found = drift(own, made.folder)
    assert f"trial {key}, seed 2: the table has {own.runs[key]} (finished), MLflow now no run (missing)" in found
    assert "does not have" not in "\n".join(found)


def test_a_run_that_fills_a_missing_cell_is_drift(made: build.Report, own: Writer) -> None:
    trial = declare("cifar10", "barlow_twins", {"arm": "barlow_twins"}, 2)
    settings = {"method.name": "barlow_twins", "dataset": "cifar10", "backbone.name": "resnet8"}
    new = own.trial("t1", {**trial, "point": {}}, metrics=metrics("barlow_twins", None, None, 2), settings=settings)
    assert drift(own, made.folder) == [
        "1 run has finished that the table does not have; cplearn report writes it anew",
        f"trial {trial['key']}, seed 2: the table has no run (missing), MLflow now {new} (finished)",
    ]


def test_a_choice_that_the_runs_no_longer_make_is_drift(made: build.Report, own: Writer) -> None:
    for seed in SEEDS:
        run = own.runs[f"svhn/cplearn method.codes=128 method.beta=1/{seed}"]
        own.client.log_metric(run, "validation/accuracy", 0.95, step=21)
    found = drift(own, made.folder)
    assert any("method.beta = 0.1 was chosen by validation/accuracy, MLflow now gives 1" in line for line in found)


def test_a_sweep_that_was_enlarged_or_is_gone_is_drift(own: Writer, of_sweep: list[build.Report]) -> None:
    report = of_sweep[0]
    manifest = own.client.search_runs([own.experiment], tag_is(Tag.KIND, SWEEP))
    trials = [declare("cifar10", "barlow_twins", {"arm": "barlow_twins"}, seed) for seed in range(4)]
    wide = declare("cifar10", "vicreg", {"arm": "vicreg"}, 0)
    own.trial("t1", {**trials[3], "point": {}}, metrics=metrics("barlow_twins", None, None, 1))
    run = own.trial("t1", {**wide, "point": {}}, metrics=metrics("barlow_twins", None, None, 0))
    own.sweep("t1", "", {"arm": ["barlow_twins", "vicreg"]}, "cifar10", [*trials, wide])
    found = "\n".join(drift(own, report.folder))
    assert f"trial {wide['key']}, seed 0: the table has no such trial, MLflow now {run} (finished)" in found
    assert "vicreg: is not in the table" in found
    assert "2 runs have finished that the table does not have" in found
    for one in [*manifest, *own.client.search_runs([own.experiment], tag_is(Tag.KIND, SWEEP))]:
        own.client.delete_run(one.info.run_id)
    own.sweep("other", "", {}, "svhn", [declare("svhn", "x", {}, 0)])
    assert any("cannot be made any more: no sweep 't1'" in line for line in drift(own, report.folder))


def test_another_time_of_a_run_is_drift(own: Writer, of_sweep: list[build.Report]) -> None:
    assert not drift(own, of_sweep[1].folder)
    own.client.log_metric(own.runs["svhn/barlow_twins/0"], "time/wall_s", 7200.0, step=21)
    (found,) = drift(own, of_sweep[1].folder)
    assert re.match(r"CPU hours: the table has \S+, MLflow gives 2", found)


def test_equal_values_of_many_seeds_do_not_drift(tmp_path: Path) -> None:
    """As of a metric that no seed changes: the mean of ten times 0.6 differs from it in the last digit."""
    writer = Writer(sqlite(tmp_path), tmp_path / "artifacts")
    trials = [declare("svhn", "β=1", {"method.beta": 1}, seed) for seed in range(10)]
    for trial in trials:
        writer.trial("many", trial, metrics={"knn/accuracy": 0.6})
    writer.sweep("many", "", {"method.beta": [1]}, "svhn", trials)
    (report,) = build.build(writer.uri, "many", tmp_path / "results")
    assert not drift(writer, report.folder)


def test_a_table_of_an_earlier_version_is_said(made: build.Report, written: Writer, tmp_path: Path) -> None:
    shutil.copytree(made.folder, tmp_path / "table1")
    path = tmp_path / "table1" / "table.json"
    document = json.loads(path.read_text())
    del document["made_from"]["specification"]
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="does not say what it was made of"):
        provenance.verify(written.uri, path)


DAMAGE = {
    "text that is none": "UPDATE params SET value = CAST(x'fffe80' AS TEXT) WHERE key = 'method.name'",
    "a start that is no time": "UPDATE runs SET start_time = 'soon'",
    "a start beyond the calendar": "UPDATE runs SET start_time = 9000000000000000000",
    "a metric in words": "UPDATE latest_metrics SET value = 'high'",
    "a table that is gone": "DROP TABLE latest_metrics",
    "no place of artifacts": "UPDATE runs SET artifact_uri = NULL",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_store_that_cannot_be_read_is_not_drift(
    of_sweep: list[build.Report], written: Writer, tmp_path: Path, damage: str
) -> None:
    shutil.copy(store_file(written.uri), tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        connection.execute(DAMAGE[damage])
    with pytest.raises(StoreError):
        provenance.verify(sqlite(tmp_path), of_sweep[0].folder)


@pytest.mark.parametrize("name", spec.names())
def test_a_specification_survives_its_side_car(name: str) -> None:
    content = spec.read(name)
    written = json.loads(json.dumps(content.model_dump(mode="json", exclude_defaults=True)))
    assert spec.TableSpec.model_validate(written) == content


WEIGHTS = "over: [method.off_diagonal, method.temperature, method.column_temperature, method.beta]"


def broken_spec(tmp_path: Path, old: str, new: str) -> str:
    text = (Path(build.__file__).parent / "tables" / "table1.yaml").read_text()
    assert old in text
    path = tmp_path / "own.yaml"
    path.write_text(text.replace(old, new))
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("by: validation/accuracy", "by: probe/accuracy", "'probe/accuracy' is measured on the test split"),
        ("by: validation/accuracy", "by: collapse/effective_rank", "is measured on the test split"),
        ("by: validation/accuracy", "by: train/loss", "means another thing at each method.off_diagonal and"),
        ("by: validation/accuracy", "by: select/alpha_req", "write better: nearest 1"),
        (WEIGHTS + "\n  by: validation/accuracy", "over: optimizer.lr\n  by: train/loss", "write better: lower"),
        ("baselines:", "baseline:", "unknown key 'baseline'; did you mean 'baselines'"),
        ("{name: codes/ami, dec", "{name: codes/amy, dec", "metric 'codes/amy' is not known; did you mean 'codes/ami'"),
        ("{name: codes/ami, decimals", "{name: codes/ami, decimal", "did you mean 'decimals'"),
        ("published: table1", "published: tabel1", "no such group in published.yaml; did you mean 'table1'"),
        ("  - metric\n", "", "metric must stand once"),
        (WEIGHTS, "over: method.codes", "it cannot be in rows or columns too"),
        ("[raw pixels, random", "[row pixels, random", "no case is called 'row pixels'"),
        ("table: table1", "table: [", "not valid YAML in line"),
    ],
)
def test_a_specification_that_is_wrong_is_said_in_one_sentence(
    written: Writer, tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message).replace("\\ ", " ")):
        build.build_table(written.uri, broken_spec(tmp_path, old, new), tmp_path / "results")
    assert not (tmp_path / "results" / "tables" / "table1").exists()


def test_trials_that_differ_in_more_than_the_seed_are_not_averaged(own: Writer, tmp_path: Path) -> None:
    trial = {**declare("svhn", "barlow_twins", {}, 0), "key": "longer"}
    settings = {"method.name": "barlow_twins", "dataset": "svhn", "backbone.name": "resnet8", "epochs": 200}
    own.trial("other", trial, metrics={"probe/accuracy": 0.9}, settings=settings)
    with pytest.raises(UserError, match=r"Barlow Twins, SVHN, – has trials that differ in epochs \(20, 200\)"):
        build.build_table(own.uri, "table1", tmp_path)
    made = build.build_table(own.uri, "table1", tmp_path, where={"epochs": 20})
    assert made.table.n == 3


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("backbone.model", ("it's $a", "b")),
        ("backbone.model", ("1e5", "007")),
        ("evaluation.gmm_components", ([10, 20], [])),
        ("data fingerprint", ("0012", "12")),
    ],
)
def test_the_option_that_a_message_proposes_works_when_it_is_pasted(
    own: Writer, tmp_path: Path, key: str, values: Any
) -> None:
    for place, value in enumerate(values):
        trial = {**declare("svhn", "swav", {}, 0), "key": f"other {place}"}
        settings = {"method.name": "barlow_twins", "dataset": "stl10", "backbone.name": "resnet8", key: value}
        run_id = own.trial("other", trial, metrics={"probe/accuracy": 0.9}, settings=settings)
        if key == "data fingerprint":
            own.client.set_tag(run_id, Tag.FINGERPRINT, value)
    with pytest.raises(UserError) as refusal:
        build.build_table(own.uri, "table1", tmp_path)
    option = re.findall(r"for instance (--where .+) or --sweep NAME", str(refusal.value))[0]
    table = ("report", "--table", "table1", "--results", str(tmp_path), "--tracking-uri", own.uri)
    code, told = run(*table, *shlex.split(option))
    assert code == 0, told


@pytest.mark.parametrize(("fingerprint", "other"), [("0012", "12"), ("12e4", "120000")])
def test_a_fingerprint_that_looks_like_a_number_is_a_text(
    own: Writer, tmp_path: Path, fingerprint: str, other: str
) -> None:
    for seed, text in enumerate((fingerprint, other)):
        trial = {**declare("svhn", "barlow_twins", {}, seed), "key": text}
        settings = {"method.name": "barlow_twins", "dataset": "svhn", "backbone.name": "resnet8"}
        own.client.set_tag(
            own.trial("other", trial, metrics={"probe/accuracy": 0.9}, settings=settings), Tag.FINGERPRINT, text
        )
    table = ("report", "--table", "table1", "--results", str(tmp_path), "--tracking-uri", own.uri)
    code, told = run(*table, "--where", f"data fingerprint={fingerprint}")
    assert code == 0, told
    document = json.loads((tmp_path / "tables/table1/table.json").read_text())
    assert {source["key"] for group in document["sources"] for source in group} == {fingerprint}
    assert not drift(own, tmp_path / "tables" / "table1")


def validated(folder: Path, *, method: str, scores: dict[float, float], size: dict[str, Any] | None = None) -> Writer:
    """A store with runs of one method at several β on SVHN, each with a validation accuracy and an alpha-ReQ."""
    writer = Writer(sqlite(folder), folder / "artifacts")
    trials = []
    for beta, score in scores.items():
        trials.append(declare("svhn", f"beta={beta}", {"method.beta": beta}, 0))
        settings = {"method.name": method, "dataset": "svhn", "backbone.name": "resnet8", "method.codes": 128}
        found = {"probe/accuracy": 0.5, "codes/nmi": 0.1, "validation/accuracy": score, "select/alpha_req": score}
        writer.trial("t", trials[-1], metrics=found, settings=settings | (size or {}))
    writer.sweep("t", "", {"method.beta": list(scores)}, "svhn", trials)
    return writer


def test_equal_candidates_are_named(tmp_path: Path) -> None:
    writer = validated(tmp_path, method="cplearn", scores={0.1: 0.7, 1: 0.8, 5: 0.8 + 1e-16})
    made = build.build_table(writer.uri, "table1", tmp_path, ["t"])
    assert [(choice.chosen, choice.tied) for choice in made.table.choices] == [("1", ("5",))]
    assert "CPLearn, SVHN, 128: β = 5 would do as well by validation/accuracy." in made.table.notes
    assert not drift(writer, made.folder)


def test_a_criterion_can_be_best_near_one(tmp_path: Path) -> None:
    writer = validated(tmp_path, method="cplearn", scores={0.1: 0.3, 1: 1.2, 5: 2.5})
    path = broken_spec(tmp_path, "by: validation/accuracy", "by: select/alpha_req\n  better: nearest 1")
    made = build.build_table(writer.uri, path, tmp_path, ["t"])
    assert [choice.chosen for choice in made.table.choices] == ["1"]
    assert "chosen for each cell by the mean nearest to 1 of select/alpha_req" in " ".join(made.table.caption)


def test_nothing_is_chosen_by_labels_that_were_trained_on(tmp_path: Path) -> None:
    writer = validated(tmp_path, method="supervised", scores={0.1: 0.7, 1: 0.8})
    path = broken_spec(tmp_path, "CPLearn: {method.name: cplearn}", "Supervised: {method.name: supervised}")
    made = build.build_table(writer.uri, path, tmp_path, ["t"])
    assert [choice.chosen for choice in made.table.choices] == [None]
    assert any("no choice of β, since a supervised backbone was trained" in note for note in made.table.notes)


def test_only_runs_of_the_same_setting_are_compared_with_published_numbers(tmp_path: Path) -> None:
    for name, compared in (("resnet8", True), ("resnet18", False)):
        folder = tmp_path / name
        folder.mkdir()
        size = {"method.codes": 16384, "backbone.name": name}
        writer = validated(folder, method="cplearn", scores={0.1: 0.7}, size=size)
        made = build.build_table(writer.uri, "table1", folder, ["t"])
        cell = rows(made, "Linear acc.")["CPLearn"].cells[column(made, "SVHN, c = 16,384")]
        assert cell.published == 0.78
        assert (cell.difference is not None) == compared
        told = "in brackets ours minus the published, for runs with backbone.name = resnet8."
        assert any(told in line for line in made.table.caption) != compared


def test_without_the_criterion_nothing_is_chosen(written: Writer, tmp_path: Path) -> None:
    path = broken_spec(tmp_path, "by: validation/accuracy", "by: select/rankme")
    made = build.build_table(written.uri, path, tmp_path)
    assert rows(made, "Linear acc.")["CPLearn"].cells[column(made, "SVHN, c = 128")].mean == "no choice"
    assert any("no choice of β, as no run has select/rankme" in note for note in made.table.notes)


@pytest.mark.parametrize(("name", "message"), [("tabel1", "did you mean 'table1'"), ("sweep", "that of every sweep")])
def test_a_table_that_there_is_not_is_said(written: Writer, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build.build_table(written.uri, name, tmp_path)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, " ".join(done.output.split())


def test_the_commands_say_yes_no_and_what_was_wrong(written: Writer, tmp_path: Path) -> None:
    store_, results = ("--tracking-uri", written.uri), ("--results", str(tmp_path / "r"))
    code, told = run("report", "--table", "beta", "--sweep", "t1", "--where", "method.codes=128", *results, *store_)
    assert (code, "CPLearn over" in (tmp_path / "r/tables/beta/table.md").read_text()) == (0, True), told
    table = tmp_path / "r" / "tables" / "beta" / "table.md"
    code, told = run("verify", str(tmp_path / "r"), *store_)
    assert (code, "numbers in 1 table agree with the tracking store" in told) == (0, True), told
    code, told = run("trace", str(table), "SVHN", "0.1", "linear", *store_)
    assert (code, written.runs["svhn/cplearn method.codes=128 method.beta=0.1/2"] in told) == (0, True), told
    code, told = run("trace", str(table), "MNIST", *store_)
    assert (code, "no cell answers to 'MNIST'" in told) == (2, True), told
    table.write_text(table.read_text().replace("0.70", "0.71", 1))
    code, told = run("verify", str(table), *store_)
    assert (code, "should be" in told) == (1, True), told
    assert run("verify", str(tmp_path / "nowhere.md"), *store_)[0] == 2
    (tmp_path / "r/tables/beta/table.json").write_text("{}")
    code, told = run("verify", str(table), *store_)
    assert (code, "is not a table of this program" in told) == (2, True), told
    assert run("report", "--where", "epochs=1", *store_)[0] == 2


def test_making_and_checking_tables_loads_neither_torch_nor_ray(written: Writer, root: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from reports import build, provenance; uri, out = sys.argv[1:]; "
        "made = build.build_table(uri, 'table1', out); provenance.verify(uri, out); "
        "provenance.to_text(provenance.trace(uri, made.files[0], ['CPLearn'])[0]); "
        "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, written.uri, str(tmp_path / "out")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
