"""The checklist of experiments from a real store, failed and preliminary runs included."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from reports import build
from stores import COMMIT, Writer, declare, sqlite
from support import needs

BETAS = [0.1, 1]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """A sweep of two β and three seeds, of which one trial failed and one was run twice; and a preliminary one."""
    folder = tmp_path_factory.mktemp("store")
    writer = Writer(sqlite(folder), folder / "artifacts")
    trials = [declare("digits", f"β={beta}", {"method.beta": beta}, seed) for beta in BETAS for seed in range(3)]
    hour = {"probe/accuracy": 0.9, "time/wall_s": 3600.0}
    for trial in trials:
        if trial["key"] == "digits/β=1/2":
            writer.trial("beta", trial, "FAILED", "MemoryError")
        else:
            writer.trial("beta", trial, metrics=hour)
    writer.trial("beta", trials[0], metrics=hour)
    writer.trial("early_&_rough", declare("digits", "lr=1", {"optimizer.lr": 1}, 0), metrics=hour)
    writer.sweep("beta", "", {"method.beta": BETAS}, "digits", trials)
    return writer


def test_the_store_answers_what_it_knows(written: Writer, tmp_path: Path) -> None:
    folder = build.build_checklist(written.uri, ["beta"], tmp_path)
    assert folder == tmp_path / "beta"
    said = (folder / "checklist.md").read_text()
    assert "beta on digits: 5 of 6 trials have finished, over seeds 0–2 (3); 2 settings and 0 baselines" in said
    assert "by Student's t" in said
    assert "a grid over method.beta (2: 0.1, 1)" in said
    assert "A trial took 60 minutes (median; 60 to 60)" in said
    assert "Of runs that are not behind the results, 1 failed (sweeps beta)" in said
    assert "Of runs that are not behind the results, 2 finished (sweeps beta, early\\_\\&\\_rough)" in said
    assert "CC BY 4.0" in said
    assert f"Commit {COMMIT}." in said
    assert said.count("(to be answered by the authors)") == 2
    threads = written.client.get_run(written.runs["digits/lr=1/0"]).data.tags["cplearn.threads"]
    assert f"The finished trials behind the results: {5 * int(threads):.3g} CPU hours." in said
    assert f"failed and preliminary ones included: {7 * int(threads):.3g} CPU hours." in said


@needs("pdflatex")
def test_latex_prints_it(written: Writer, tmp_path: Path) -> None:
    build.build_checklist(written.uri, ["beta"], tmp_path)
    text = r"\documentclass{article}\begin{document}\input{beta/checklist}\end{document}"
    (tmp_path / "paper.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-3000:]
