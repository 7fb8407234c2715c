"""The tables about grids from a real MLflow store, with numbers that were chosen so that the answers are known."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import spearmanr, t

from reports import build, provenance
from reports.tables import spec
from reports.tables.model import Cell
from stores import Writer, declare, sqlite
from support import needs, run_cli
from sweeps.errors import UserError
from sweeps.record import Tag

SEEDS = (0, 1, 2)
BETAS = (0.1, 1.0, 10.0)
ACCURACY = {0: (0.80, 0.90, 0.70), 1: (0.82, 0.90, 0.70), 2: (0.84, 0.90, 0.70)}
AMI = (0.3, 0.8, 0.6)
INFORMATION = {0: (0.2, 2.0, 1.0), 1: (0.2, 2.0, 1.0), 2: (2.5, 2.0, 1.0)}
"""At seed 2 it picks β = 0.1 and not the best."""
USED = (100.0, 50.0, 4.0)
TAUS = (0.05, 0.1, 0.2)
COMMAND = "cplearn train --dataset digits"


def measures(accuracy: float, ami: float, information: float, used: float, loss: float = 1.0) -> dict[str, float]:
    well = {"collapse/embedding_std": 0.9, "collapse/effective_rank": 60.0, "collapse/intra_cluster_variance": 0.5}
    codes = {"collapse/codes_used": used, "collapse/code_perplexity": used, "kmeans/clusters": 10.0, "codes/ami": ami}
    return {"probe/accuracy": accuracy, "select/view_information": information, "train/loss": loss, **well, **codes}


def write(writer: Writer) -> None:
    """CPLearn over three β, of which 10 has few codes; SwAV over three τ whose accuracies are equal, of which seed 2
    of τ = .2 failed; LeJEPA over three weights with the smallest loss at the best; a baseline."""
    trials = [declare("digits", "random backbone", {}, 0, "baseline")]
    writer.trial("s", trials[0], metrics={"probe/accuracy": 0.95}, settings={"method.name": "untrained"})
    for seed in SEEDS:
        for place, beta in enumerate(BETAS):
            found = measures(ACCURACY[seed][place], AMI[place], INFORMATION[seed][place], USED[place])
            trials.append(declare("digits", f"CPLearn beta={beta}", {"arm": "CPLearn", "method.beta": beta}, seed))
            settings = {
                "method.name": "cplearn",
                "method.codes": 2048,
                "method.embedding_dim": 128,
                "method.beta": beta,
            }
            run = writer.trial("s", {**trials[-1], "point": {}}, metrics=found, settings=settings)
            writer.client.set_tag(run, "cplearn.command", COMMAND)
        for tau in TAUS:
            trials.append(
                declare("digits", f"SwAV temperature={tau}", {"arm": "SwAV", "method.temperature": tau}, seed)
            )
            settings = {
                "method.name": "swav",
                "method.codes": 100,
                "method.embedding_dim": 128,
                "method.temperature": tau,
            }
            broken = (seed, tau) == (2, 0.2)
            result: dict[str, Any] = {"metrics": measures(0.6, 0.1 + tau + 0.1 * seed, tau, 50)}
            result = {"status": "FAILED", "error": "MemoryError: no"} if broken else result
            writer.trial("s", {**trials[-1], "point": {}}, **result, settings=settings)
        for place, weight in enumerate((0.01, 0.1, 1.0)):
            trials.append(
                declare("digits", f"LeJEPA weight={weight}", {"arm": "LeJEPA", "method.weight": weight}, seed)
            )
            settings = {"method.name": "lejepa", "method.embedding_dim": 128, "method.weight": weight}
            found = measures((0.5, 0.6, 0.7)[place], 0.5 + 0.1 * place, 1.0 + place, 50, (3.0, 2.0, 1.5)[place])
            writer.trial("s", {**trials[-1], "point": {}}, metrics=found, settings=settings)
    axes = {"arm": ["CPLearn", "SwAV", "LeJEPA"], "method.beta": BETAS, "method.temperature": TAUS}
    writer.sweep("s", "", {**axes, "method.weight": (0.01, 0.1, 1.0)}, "digits", trials)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    folder = tmp_path_factory.mktemp("store")
    writer = Writer(sqlite(folder), folder / "artifacts")
    write(writer)
    return writer


@pytest.fixture(scope="module")
def made(written: Writer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, build.Report]:
    results = tmp_path_factory.mktemp("results")
    return {name: build.build_table(written.uri, name, results, ["s"]) for name in ("sensitivity", "criteria")}


def cell(report: build.Report, method: str, column: str, block: str = "") -> Cell:
    place = [one.short for one in report.table.columns].index(column)
    (row,) = [row for row in report.table.rows if row.head[-1] == method and row.block == block]
    return row.cells[place]


def test_best_worst_and_mean_leave_out_what_has_collapsed(made: dict[str, build.Report]) -> None:
    report = made["sensitivity"]
    firsts = [ACCURACY[seed][0] for seed in SEEDS]
    expected = {"best": [0.9] * 3, "worst": firsts, "mean": [(0.9 + first) / 2 for first in firsts]}
    expected["all"] = [np.mean(ACCURACY[seed]) for seed in SEEDS]
    for column, values in expected.items():
        number = cell(report, "CPLearn", column).number
        assert number is not None
        assert (number.mean, number.n) == (pytest.approx(np.mean(values)), 3)
        half = t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
        assert (number.low, number.high) == (pytest.approx(number.mean - half), pytest.approx(number.mean + half))
    shares = {column: cell(report, "CPLearn", column).mean for column in ("any", "repr.", "cluster", "dim.", "intra")}
    assert shares == {"any": "0.33", "repr.": "0.00", "cluster": "0.33", "dim.": "0.00", "intra": "0.00"}
    assert [row.head[-1] for row in report.table.rows] == ["LeJEPA", "SwAV", "CPLearn"], "no baseline, no absent method"


def test_regret_is_counted_seed_by_seed(made: dict[str, build.Report]) -> None:
    number = cell(made["sensitivity"], "CPLearn", "view inf.").number
    assert number is not None
    assert number.mean == pytest.approx((0 + 0 + 0.06) / 3)
    assert number.n == 3
    same = cell(made["criteria"], "CPLearn", "View inf.", "Regret").number
    assert same == number


def test_a_loss_counts_only_where_it_is_claimed_to_compare(made: dict[str, build.Report]) -> None:
    for name, column, block in (("sensitivity", "loss", ""), ("criteria", "Loss", "Regret")):
        assert cell(made[name], "LeJEPA", column, block).mean == "0.000"
        nothing = cell(made[name], "CPLearn", column, block)
        assert (nothing.metric, nothing.mean) == ("", "")


def test_rank_correlations_are_spearmans_over_the_grid(made: dict[str, build.Report]) -> None:
    for block, target in (
        ("Rank correlation with linear acc.", ACCURACY),
        ("Rank correlation with AMI", dict.fromkeys(SEEDS, AMI)),
    ):
        number = cell(made["criteria"], "CPLearn", "View inf.", block).number
        each = [spearmanr(INFORMATION[seed], target[seed]).statistic for seed in SEEDS]
        assert number is not None
        assert number.mean == pytest.approx(np.mean(each))
        assert number.std == pytest.approx(np.std(each, ddof=1))


def test_what_is_not_defined_is_a_dash_with_its_reason(made: dict[str, build.Report]) -> None:
    report = made["criteria"]
    assert cell(report, "SwAV", "View inf.", "Rank correlation with linear acc.").mean == "–"
    notes = "\n".join(report.table.notes)
    assert "Not defined at seeds 0, 1 of Digits, SwAV: all settings have the same linear accuracy." in notes
    assert "fewer than 3 settings have select/view_information and AMI of the codes" in notes, "at seed 2 one failed"
    assert "seed 2 failed (MemoryError: no)" in notes
    ami = cell(report, "SwAV", "View inf.", "Rank correlation with AMI")
    assert (ami.mean, ami.n) == ("1.00", 2)
    assert "Digits, CPLearn, β = 0.1, 1, 10" in notes


def test_the_last_row_of_a_block_is_the_mean_of_the_methods(made: dict[str, build.Report]) -> None:
    regret = cell(made["criteria"], "mean of the methods", "View inf.", "Regret")
    assert regret.number is not None
    assert regret.number.mean == pytest.approx((0.02 + 0 + 0) / 3)
    assert len(regret.sources) == 3 * 9
    rank = cell(made["criteria"], "mean of the methods", "View inf.", "Rank correlation with linear acc.")
    ours = cell(made["criteria"], "CPLearn", "View inf.", "Rank correlation with linear acc.")
    assert rank.number is not None
    assert ours.number is not None
    assert rank.number.mean == pytest.approx((ours.number.mean + 1) / 2), "SwAV has none at any seed"


def test_every_number_leads_to_its_runs(made: dict[str, build.Report], written: Writer, tmp_path: Path) -> None:
    (traced,) = provenance.trace(
        written.uri, made["sensitivity"].folder / "table.tex", ["CPLearn", "regret", "view inf."]
    )
    assert {run.source.run_id for run in traced.runs} == {
        written.runs[f"digits/CPLearn beta={beta}/{seed}"] for beta in BETAS for seed in SEEDS
    }
    first = traced.runs[0]
    assert first.value is None
    assert first.made_of.keys() == {"probe/accuracy", "select/view_information"}
    assert first.command == COMMAND
    assert "probe/accuracy = 0.8" in provenance.to_text(traced).plain
    listed = (made["criteria"].folder / "table.md").read_text().partition("<details>")[2]
    assert "95 % interval" in listed
    assert all(run in listed for run in written.runs.values() if run != written.runs["digits/random backbone/0"])


def test_the_tables_hold_and_drift_is_noticed(made: dict[str, build.Report], written: Writer, tmp_path: Path) -> None:
    checked = provenance.verify(written.uri, made["criteria"].folder.parent)
    assert len(checked) == 2
    assert all(one.numbers and not one.drift for one in checked), checked
    shutil.copy(written.uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    own = written.of(sqlite(tmp_path))
    own.client.log_metric(own.runs["digits/CPLearn beta=1.0/0"], "probe/accuracy", 0.99, step=21)
    drift = [line for one in provenance.verify(own.uri, made["sensitivity"].folder) for line in one.drift]
    assert any("CPLearn, Linear acc., best" in line for line in drift), drift


@needs("pdflatex")
@pytest.mark.parametrize("name", ["sensitivity", "criteria"])
def test_the_latex_table_compiles_and_fits_the_page(made: dict[str, build.Report], name: str, tmp_path: Path) -> None:
    shutil.copy(made[name].folder / "table.tex", tmp_path)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Overfull" not in done.stdout


def test_the_figure_shows_each_weight_relative_to_its_best(made: dict[str, build.Report]) -> None:
    folder = made["sensitivity"].folder / "figures"
    numbers = pd.read_csv(folder / "sensitivity.csv").set_index(["method", "value"])
    assert numbers["relative"]["CPLearn"].to_dict() == pytest.approx({0.1: 0.1, 1: 1, 10: 10})
    assert numbers.loc[("CPLearn", 0.1), ["n", "mean", "collapsed"]].tolist() == pytest.approx([3, 0.82, 0])
    assert numbers["collapsed"]["CPLearn"][10] == 1
    assert numbers["relative"]["LeJEPA"].to_dict() == pytest.approx({0.01: 0.01, 0.1: 0.1, 1: 1})
    assert numbers["n"]["SwAV"].to_dict() == {0.05: 3, 0.1: 3, 0.2: 2}
    dots = pd.read_csv(made["criteria"].folder / "figures" / "criteria.csv")
    (regret,) = dots[(dots["quantity"] == "Regret") & (dots["method"] == "CPLearn")]["mean"]
    assert regret == pytest.approx(0.02)
    for name, report in made.items():
        assert (report.folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (report.folder / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_settings_that_no_weight_tells_apart_are_not_mixed(written: Writer, tmp_path: Path) -> None:
    shutil.copy(written.uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    own = written.of(sqlite(tmp_path))
    settings = {"method.name": "cplearn", "method.codes": 10, "method.embedding_dim": 128, "method.beta": 1.0}
    other = {**declare("digits", "smaller", {}, 0), "key": "smaller"}
    own.trial("other", other, metrics=measures(0.9, 0.5, 1, 50), settings=settings)
    with pytest.raises(UserError, match=r"CPLearn.* has trials that differ in method.codes \(10, 2048\)"):
        build.build_table(own.uri, "sensitivity", tmp_path)
    assert build.build_table(own.uri, "sensitivity", tmp_path, where={"method.codes": [2048, 100, None]}).table.rows


def test_runs_that_were_stopped_on_a_collapse_count_in_the_shares_alone(written: Writer, tmp_path: Path) -> None:
    shutil.copy(written.uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    own = written.of(sqlite(tmp_path))
    for seed in SEEDS:
        run = own.runs[f"digits/CPLearn beta=10.0/{seed}"]
        own.client.set_tag(run, Tag.COLLAPSE, "dimensional")
        own.client.set_terminated(run, "KILLED")
    report = build.build_table(own.uri, "sensitivity", tmp_path, ["s"])
    shares = {column: cell(report, "CPLearn", column).mean for column in ("any", "cluster", "dim.", "intra")}
    assert shares == {"any": "0.33", "cluster": "0.00", "dim.": "0.33", "intra": "0.00"}
    every, worst = (cell(report, "CPLearn", column).number for column in ("all", "worst"))
    assert every is not None
    assert worst is not None
    assert every.mean == pytest.approx(np.mean([ACCURACY[seed][:2] for seed in SEEDS]))
    assert worst.mean == pytest.approx(0.82)
    told = "3 runs were stopped on a collapse before the last epoch and count in the shares of collapse alone."
    assert told in report.table.notes


def test_a_sweep_writes_the_tables_that_it_asks_for(written: Writer, tmp_path: Path) -> None:
    shutil.copy(written.uri.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    own = written.of(sqlite(tmp_path))
    (run,) = own.client.search_runs([own.experiment], "tags.`cplearn.kind` = 'sweep'")
    path = own.client.download_artifacts(run.info.run_id, "manifest.json", str(tmp_path))
    manifest = json.loads(Path(path).read_text())
    assert "tables" not in manifest
    own.client.log_text(run.info.run_id, json.dumps(manifest | {"tables": ["criteria", "resnet18"]}), "manifest.json")
    status, output = run_cli(tmp_path, "report", "s", "--tracking-uri", own.uri)
    assert status == 0, output
    assert "table 'resnet18': none of the 28 trials found has finished and matches its rows" in output, "in one note"
    assert {path.name for path in (tmp_path / "results" / "s" / "tables").iterdir()} == {"criteria"}
    assert "Rank correlation with AMI" in output
    status, output = run_cli(tmp_path, "verify", "results", "--tracking-uri", own.uri)
    assert (status, "2 tables agree" in output) == (0, True), output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"study": None}, "say under study which span it"),
        ({"metrics": ["grid/best", "probe/accuracy"]}, "study goes with metrics that begin with grid/"),
        ({"metrics": ["regret/validation/accuracy"]}, "study.criteria has no criterion by validation/accuracy"),
        ({"metrics": ["regret/*"]}, "a star stands for the criterion of a column"),
        ({"columns": ["criterion", "metric"]}, "criterion must be the last of the columns"),
        ({"rows": ["method.beta"]}, "method.beta spans the grid"),
        ({"study": {"over": "method.beta", "criteria": {"A": {"by": "probe/accuracy"}}}}, "measured on the test split"),
        ({"study": {"over": "method.beta", "mean": "all"}, "rows": ["metric"]}, "there are none but metrics"),
        ({"study": {"over": "method.beta", "criteri": {}}}, "did you mean 'criteria'"),
    ],
)
def test_a_specification_that_is_wrong_is_said(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    content = yaml.safe_load((spec.FOLDER / "sensitivity.yaml").read_text())
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in (content | change).items() if value is not None}))
    with pytest.raises(UserError, match=message):
        spec.read(str(path))
