"""What the fuzz tests share: how documents and files are mutated, and a place where commands run in this process."""

from __future__ import annotations

import copy
import io
import os
import random
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import typer

from runner import cli
from runner.cli import console
from runner.timing.forecast import Forecast

MUTATIONS = int(os.environ.get("CPLEARN_MUTATIONS", "500"))
SHARES = {
    "sweep files": 0.3, "--set": 0.1, "table files": 0.16, "--where": 0.1, "table.json": 0.16, "import-solo": 0.06,
    "own checkpoints": 0.04, "folders of images": 0.08,
}  # fmt: skip
"""How many of the mutations, all together, are of each kind; other kinds take longer each."""
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, -0.5, 1e-300, 1e300, 10**30, 2**63, float("nan"), float("inf"), -float("inf"),
    "", " ", "auto", "nan", "digits", "digit", "svnh", "folder:", "folder:/nowhere", "folder:/dev/null", "β", "\u202e",
    "0x10", "a" * 5_000, "[bold]", "'; DROP TABLE runs; --", [], [[]], [None], [1, 2], {}, {"name": "cplearn"}, {"": 1},
    {"log_uniform": [0, 1]}, {"log_uniform": [1e-3, 1]}, {"choice": []}, {"choice": [1, "a"]}, {"uniform": [2, 1]},
    {"integers": [1, 3]}, {1: 2}, {"a": {"b": {"c": 1}}},
]  # fmt: skip
KEYS = [
    "sweep", "settings", "axes", "seeds", "samples", "sample_seed", "packing", "baselines", "description", "dataset",
    "epochs", "epoch", "method", "method.beta", "method.codes", "method.name", "method.", ".", "..", "", "optimizer.lr",
    "seed", "optimizer", "backbone", "backbone.name", "backbone.width", "image_size", "batch_size", "precision",
    "evaluation", "augment.strength", "evaluation.knn_neighbours", "evaluation.probe", "evaluation.gmm_components",
    "evaluation.transfer", "Epochs", "method.beta.gamma", "__class__", "α",
]  # fmt: skip


def count(kind: str) -> int:
    """How many mutations of a kind are tried: `CPLEARN_MUTATIONS` of all kinds, or 500."""
    return round(SHARES[kind] * MUTATIONS)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value of nested groups and lists."""
    found = [path] if path else []
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return found + [place for key, value in items for place in places(value, (*path, key))]


def mutate(document: dict[str, Any], draw: random.Random, odd: Sequence[Any] = ODD) -> dict[str, Any]:
    """A copy with one to three changes: values replaced, wrapped or scaled, keys renamed, added or dropped."""
    document = copy.deepcopy(document)
    for _ in range(draw.randint(1, 3)):
        way = draw.choice(places(document) or [()])
        if not way:
            return document
        parent = document
        for step in way[:-1]:
            parent = parent[step]
        last = way[-1]
        change = draw.choice(["value", "value", "value", "rename", "drop", "add", "wrap", "scale"])
        if change == "value":
            parent[last] = copy.deepcopy(draw.choice(odd))
        elif change == "rename" and isinstance(parent, dict):
            parent[draw.choice(KEYS)] = parent.pop(last)
        elif change == "drop":
            del parent[last]
        elif change == "add" and isinstance(parent, dict):
            parent[draw.choice(KEYS)] = copy.deepcopy(draw.choice(odd))
        elif change == "wrap":
            parent[last] = draw.choice([[parent[last]], {"name": parent[last]}, str(parent[last])])
        elif change == "scale" and isinstance(parent[last], int | float) and not isinstance(parent[last], bool):
            parent[last] *= draw.choice([-1, 0, 0.5, 1000, 10**9])
    return document


def damage(text: str | bytes, draw: random.Random) -> bytes:
    """The text with some of its characters exchanged, cut out, doubled, or replaced by bytes that are no text."""
    data = bytearray(text.encode() if isinstance(text, str) else text)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data))
        change = draw.randrange(5)
        if change == 0:
            data[at] = draw.randrange(256)
        elif change == 1:
            del data[at : at + draw.randint(1, 40)]
        elif change == 2:
            data[at:at] = data[at : at + draw.randint(1, 200)]
        elif change == 3:
            data[at:at] = draw.choice(
                [b"\t", b": ", b"- ", b"{", b"]", b"&a ", b"*a", b"!!python/object:os.system ", b"\x00", b"%"]
            )
        else:
            data[at:at] = b"\n" + b" " * draw.randrange(8)
        if not data:
            break
    return bytes(data)


class Workplace:
    """A folder in which commands run in this process, and which they must leave as it was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "file").write_text("not a folder")

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, output and errors of `cplearn ARGUMENTS`; raises what would be a traceback."""
        said, complained = io.StringIO(), io.StringIO()
        with redirect_stdout(said), redirect_stderr(complained), pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.delenv("RAY_ADDRESS", raising=False)
            patch.setenv("CPLEARN_DATA", str(self.folder / "data"))
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{self.folder}/mlflow.db")
            # It times a few steps in a process of its own.
            patch.setattr(Forecast, "calibrated", lambda forecast, *arguments, **options: forecast)
            patch.setattr(console.out, "_file", said)
            patch.setattr(console.err, "_file", complained)
            try:
                typer.main.get_command(cli.app).main(list(arguments), "cplearn", standalone_mode=True)
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
        return code, said.getvalue(), complained.getvalue()

    def left(self) -> set[str]:
        return {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*")}


def one_sentence(code: int, said: str, complained: str) -> str:
    """Asserts that a refusal is one message, and returns it."""
    assert code == 2, (code, said, complained)
    lines = complained.strip().splitlines()
    assert len(lines) == 1, complained
    assert lines[0].startswith("error: "), complained
    assert 15 < len(lines[0]) < 900, lines[0]
    assert "Traceback" not in complained
    assert not said, said
    return lines[0]
