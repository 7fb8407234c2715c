"""What a newcomer is told to do, done as written: the tutorial, the notebook, and the Python of the pages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT, uri

pytestmark = pytest.mark.long

INSTALLS = ("git ", "cd ", "make setup", "source ")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of its own, shared by all tests: trials that one has run are not run again."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "bin").mkdir()
    command = folder / "bin" / "cplearn"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m runner.cli "$@"\n')
    command.chmod(0o755)
    return folder


def run(folder: Path, *command: str) -> str:
    """What a command prints in the folder; it must end well."""
    own = {"MLFLOW_TRACKING_URI": uri(folder), "CPLEARN_DATA": str(folder / "data"), "PYTHONPATH": str(ROOT)}
    own["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **own}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each block of a page."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.timeout(600)
def test_the_tutorial(folder: Path) -> None:
    printed = {}
    for language, text in blocks("docs/first-sweep.md"):
        if language == "python":
            run(folder, sys.executable, "-c", text)
        for line in re.findall(r"^\$ (.*)$", text, flags=re.MULTILINE) if language == "console" else ():
            if not line.startswith(INSTALLS):
                printed[line] = run(folder, "bash", "-c", line)

    def told(start: str) -> str:
        (text,) = [text for line, text in printed.items() if line.startswith(start)]
        return text

    assert "report.html" in told("ls ")
    assert "1,437 training and 360 test images of 1x8x8, 10 classes" in told("cplearn data folder:")
    assert re.search(r"^folder-my-images-\w+ +5 ", told("cplearn plan"), flags=re.MULTILINE)
    assert "Linear acc." in told("cat ")
    assert "cplearn train" in told("cplearn trace")
    assert "agree" in told("cplearn verify")


@pytest.mark.timeout(600)
def test_the_notebook(folder: Path) -> None:
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    code += '\nprint(best["label"][:5], result.table.shape, len(result.runs), features.shape)'
    printed = run(folder, sys.executable, "-c", code)
    assert re.search(r"^\d+% of the neighbours have the class of their image\.$", printed, flags=re.MULTILINE)
    assert "beta= (5, 11) 10 torch.Size([360, 128])" in printed


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", ["README.md", "docs/sweeps.md"])
def test_a_sweep_from_python(folder: Path, page: str) -> None:
    (code,) = [text for language, text in blocks(page) if language == "python"]
    assert "(5, 11)" in run(folder, sys.executable, "-c", f"{code}\nprint(result.table.shape)")
    (loads,) = [text for language, text in blocks("docs/mlflow.md") if language == "python"]
    loads = loads.replace('"<run id>"', "result.runs['run_id'][result.runs['codes/ami'].idxmax()]")
    images = "import torch; images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)"
    end = "print(tuple(features.shape), tuple(codes.shape))"
    assert "(3, 128) (3,)" in run(folder, sys.executable, "-c", "\n".join([code, images, loads, end]))
