"""The walk-through of docs/methods.md, done as written: its file, its test, and the checks that every method passes."""

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


@pytest.fixture
def example(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """The method of the document, installed as if its file lay in cplearn/methods; yields its test file's names."""
    document = (root / "docs" / "methods.md").read_text()
    module, test = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    (tmp_path / "alignment.py").write_text(module)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    names: dict[str, object] = {}
    exec(compile(test, "docs/methods.md", "exec"), names)
    yield names
    sys.modules.pop("cplearn.methods.alignment")
    del methods.alignment


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
    document = (root / "docs" / "methods.md").read_text()
    equations, numbers = (re.findall(r"^\| `(\w+)` \|", part, flags=re.M) for part in document.split("## Digits"))
    assert sorted(equations) == methods.names()
    assert sorted(numbers) == method_checks.TRAINED
