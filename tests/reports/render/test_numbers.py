"""Numbers for running text: their names, what they say, and that LaTeX takes them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from frames import result
from reports.render import numbers
from reports.statistics.compute import device_hours
from reports.tables import table_of_sweep
from reports.tables.model import Table
from support import needs

ACCURACY = {0.1: (0.70, 0.74), 1: (0.80, 0.82), 10: (0.90, None)}
"""By β, of two seeds; the best β has lost one, so it cannot be the best row."""


@pytest.fixture(scope="module")
def table() -> Table:
    trials = [{"label": "random backbone", "seed": seed, "probe/accuracy": 0.5} for seed in (0, 1)]
    hardware = {"time/wall_s": 1800.0, "tags.device": "cpu", "tags.threads": "2"}
    for beta, accuracies in ACCURACY.items():
        for seed, accuracy in enumerate(accuracies):
            trial = {"method.beta": beta, "seed": seed, "status": "FINISHED" if accuracy else "FAILED"}
            trials.append({**trial, **hardware, "probe/accuracy": accuracy})
    return table_of_sweep(result({"method.beta": list(ACCURACY)}, trials, seeds=2))


def test_each_number_of_the_table_has_its_name(table: Table) -> None:
    found = numbers.numbers_of(table)
    said = {name.removeprefix("SDigits"): number.text for name, number in found.items()}
    assert {"BetaZeroPointOneProbeAccuracy": "0.720", "BetaOneProbeAccuracyStd": "0.014"}.items() <= said.items()
    assert {"Seeds": "2", "Rows": "3", "Trials": "8", "Runs": "7", "CpuHours": "5"}.items() <= said.items()
    best = {"BestBeta": "1", "BestProbeAccuracy": "0.810", "BestOverRandomBackboneProbeAccuracy": "0.310"}
    assert best.items() <= said.items()
    assert found["SDigitsBestProbeAccuracy"].value == pytest.approx(0.81)
    document = json.loads(numbers.to_json(table))
    assert document.keys() == found.keys()
    assert document["SDigitsBestProbeAccuracy"]["text"] == "0.810"


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("CIFAR-10, c = 16,384", "CifarOneZeroCOneSixThreeEightFour"),
        ("lr = 1e-05", "LrOneEMinusZeroFive"),
        ("α-ReQ", "AlphaReQ"),
        ("50% of_my|set \\", "FiveZeroOfMySet"),
    ],
)
def test_names_are_letters(label: str, name: str) -> None:
    assert numbers.macro_name(label) == name


@needs("pdflatex")
def test_latex_prints_them(table: Table, tmp_path: Path) -> None:
    (tmp_path / "numbers.tex").write_text(numbers.to_tex(table))
    text = r"With $\beta = \SDigitsBestBeta$ it reaches \SDigitsBestProbeAccuracy{} $\pm$ \SDigitsBestProbeAccuracyStd."
    document = rf"\documentclass{{article}}\input{{numbers}}\begin{{document}}{text}\end{{document}}"
    (tmp_path / "paper.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_hours_count_threads_and_processes() -> None:
    cpu = {"time/wall_s": 3600.0, "tags.device": "cpu", "tags.threads": "4", "tags.ranks": "2"}
    gpu = {"time/wall_s": 7200.0, "tags.device": "cuda", "tags.threads": "4", "tags.ranks": None}
    without = {"time/wall_s": None, "tags.device": "cpu"}
    assert device_hours(pd.DataFrame([cpu, gpu, without])) == {"CPU hours": 8.0, "GPU hours": 2.0}
    assert device_hours(pd.DataFrame([{"run_id": "a"}])) == {}
