"""docs/data.md: its examples run, one after the other, and its table names every source."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from cplearn.data import catalogue
from cplearn.data.image_files import MOST_PIXELS
from cplearn.data.splits import NAMES, TEST_SHARE
from support import ROOT, run_cli

PAGE = (ROOT / "docs" / "data.md").read_text()


def test_every_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    space: dict[str, object] = {}
    checked = []
    for language, text in re.findall(r"```(python|console)\n(.*?)```", PAGE, re.DOTALL):
        if language == "python":
            exec(compile(text, "docs/data.md", "exec"), space)
            continue
        for line in text.splitlines():
            program, *arguments = shlex.split(line.removeprefix("$ "))
            assert program == "cplearn"
            status, output = run_cli(tmp_path, *arguments)
            assert status == 0, f"{line}: {output}"
            if arguments[:2] == ["data", "check"]:
                assert "Classes: finch, owl." in output or "Classes: 0, 1." in output, output
                checked.append(arguments[2].partition(":")[0])
    assert checked == ["birds", "heap", "parquet", "npz", "wds", "hf"]


def test_the_page_agrees_with_the_code() -> None:
    for name in catalogue.names():
        assert f"`{name}`" in PAGE, name
    for name in NAMES:
        assert f"`{name}`" in PAGE, name
    assert TEST_SHARE == 1 / 5
    assert MOST_PIXELS == 100_000_000
