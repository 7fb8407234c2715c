"""The walk-through of docs/methods.md, done as written: its file, its test, and the tests that find a new method."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from cplearn import methods
from cplearn.config import trial as config
from cplearn.data import Dataset


def other_tests(path: Path) -> ModuleType:
    """Another test file as a module, whose tests are to hold for the method of the document as well."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def example(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """The method of the document, installed as if its file lay in cplearn/methods; yields its test file's names."""
    document = (root / "docs" / "methods.md").read_text()
    module, test = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    (tmp_path / "alignment.py").write_text(module)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    methods._names.cache_clear()
    names: dict[str, object] = {}
    exec(compile(test, "docs/methods.md", "exec"), names)
    yield names
    sys.modules.pop("cplearn.methods.alignment")
    del methods.alignment
    methods._names.cache_clear()


def test_the_example_passes_its_test_and_those_of_every_method(example: dict, digits: Dataset, root: Path) -> None:
    test_methods = other_tests(root / "tests/cplearn/methods/test_all_methods.py")
    test_training = other_tests(root / "tests/cplearn/training/test_loop.py")
    tests = [value for name, value in example.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()
    assert "alignment" in methods.names()
    assert "method.weight" in config.known_keys("alignment")
    test_methods.test_shapes_and_gradients("alignment")
    test_methods.test_every_parameter_and_buffer_has_its_members_in_the_first_axis("alignment")
    test_methods.test_a_member_without_numbers_changes_no_bit_of_the_others("alignment")
    test_methods.test_only_a_supervised_method_looks_at_labels("alignment")
    test_training.test_a_member_of_a_pack_is_the_trial_alone(digits, "alignment", {"method": {"embedding_dim": 8}})


def test_both_tables_have_every_method(root: Path) -> None:
    test_methods = other_tests(root / "tests/cplearn/methods/test_all_methods.py")
    document = (root / "docs" / "methods.md").read_text()
    equations, numbers = (re.findall(r"^\| `(\w+)` \|", part, flags=re.M) for part in document.split("## Digits"))
    assert sorted(equations) == methods.names()
    assert sorted(numbers) == test_methods.TRAINED
