"""The walk-through of docs/own-method.md, done as written, and the tables of docs/methods.md."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import method_checks
from cplearn import methods
from cplearn.config import trial as config
from cplearn.data import Dataset
from sweeps.record import param_value


@pytest.fixture
def example(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """The method of the document, installed as if its file lay in cplearn/methods; yields its test file's names."""
    document = (root / "docs" / "own-method.md").read_text()
    module, test = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    (tmp_path / "alignment.py").write_text(module)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    methods.own.cache_clear()
    names: dict[str, object] = {}
    exec(compile(test, "docs/own-method.md", "exec"), names)
    yield names
    sys.modules.pop("cplearn.methods.alignment")
    del methods.alignment
    methods.own.cache_clear()


def test_the_example_passes_its_test_and_those_of_every_method(example: dict, digits: Dataset) -> None:
    tests = [value for name, value in example.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()
    assert "alignment" in methods.names()
    assert "method.weight" in config.known_keys("alignment")
    method_checks.check_shapes_and_gradients("alignment")
    method_checks.check_no_value_is_needed_on_the_host("alignment")
    method_checks.check_only_a_supervised_method_looks_at_labels("alignment")
    method_checks.check_trains("alignment", digits)


def test_both_tables_have_every_method(root: Path) -> None:
    results = (root / "docs" / "method-results.md").read_text().split("\n## ")[1]
    losses = (root / "docs" / "methods.md").read_text().split("\n## ")[0]
    equations, numbers = (re.findall(r"^\| `(\w+)` \|", text, flags=re.M) for text in (losses, results))
    assert sorted(equations) == methods.names()
    assert sorted(numbers) == method_checks.TRAINED


def test_the_deviations_name_defaults_that_are_true(root: Path) -> None:
    """A setting in the third column is the default of each method in the first."""
    document = (root / "docs" / "methods.md").read_text()
    table = document.partition("## Deviations")[2].partition("\n\nBatchNorm")[0]
    checked = set()
    for line in table.splitlines():
        if not line.startswith("| `") and not line.startswith("| all"):
            continue
        names, _, here, _ = (cell.strip() for cell in line.strip("|").split(" | "))
        for name in re.findall(r"`(\w+)`", names) or ["cplearn"]:
            defaults = config.TrialSettings.read({"method": name}).flat()
            for key, value in re.findall(r"`([a-z_.]+)=([^`]+)`", here):
                assert defaults[key] == param_value(value), (name, key)
                checked.add(key)
    assert {"method.batch_parts", "method.prior", "method.off_diagonal", "normalisation"} <= checked
