"""The direction of dependencies is a promise: asserted over the syntax tree of every module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "torchvision", "ray", "mlflow", "optuna"}
OURS = {"cplearn", "sweeps", "runner", "reports"}

FORBIDDEN = {
    "sweeps": HEAVY | OURS - {"sweeps"},
    "cplearn": {"ray", "mlflow", "optuna"} | OURS - {"cplearn"},
    "runner": {"reports"},
    "reports": {"torch", "torchvision", "ray", "optuna"} | OURS - {"reports", "sweeps"},
}
# The driver of a sweep and the command line tie all four together; nothing imports the command line.
MAY_REPORT = ("runner/cli/", "runner/driver/")
COMPOSITION_ROOT = "runner/cli/"
ONLY_MLFLOW = {"runner/tracking/", "reports/store/"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Absolute dotted names imported anywhere in a module, function bodies included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", sorted(OURS))
def test_imports_run_one_way(package: str) -> None:
    assert modules(package)
    for path in modules(package):
        name = path.relative_to(ROOT).as_posix()
        allowed = {"reports"} if name.startswith(MAY_REPORT) else set()
        found = {module.split(".")[0] for module in imported(path)} & (FORBIDDEN[package] - allowed)
        assert not found, f"{name} imports {found}"


def test_one_module_writes_to_mlflow_and_one_package_reads() -> None:
    users = set()
    for package in OURS:
        for path in modules(package):
            if any(module.split(".")[0] == "mlflow" for module in imported(path)):
                users.add(f"{path.parent.relative_to(ROOT).as_posix()}/")
    assert users == ONLY_MLFLOW


def test_nothing_imports_the_composition_root() -> None:
    for package in OURS:
        for path in modules(package):
            inside = path.relative_to(ROOT).as_posix().startswith(COMPOSITION_ROOT)
            assert inside or not any(module.startswith("runner.cli") for module in imported(path)), path


def test_every_dependency_says_who_needs_it() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    start = lines.index("dependencies = [")
    for line in lines[start + 1 : lines.index("]", start)]:
        assert "#" in line, line
