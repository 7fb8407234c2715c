"""The order of the house is a promise: who may import whom is asserted over the syntax tree of every module."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from cplearn.data.catalogue import CATALOGUE
from support import ROOT

PACKAGES = ("sweeps", "cplearn", "runner", "reports")
MOST_LINES = 400

# What a package must not import: libraries, and packages of ours.
FORBIDDEN = {
    "sweeps": {"torch", "torchvision", "ray", "mlflow", "optuna", "cplearn", "runner", "reports"},
    "cplearn": {"ray", "mlflow", "optuna", "sweeps", "runner", "reports"},
    "runner": {"reports"},
    "reports": {"torch", "torchvision", "ray", "optuna", "cplearn", "runner"},
}
# These tie all four packages together: the driver of a sweep, and the command line above it.
COMPOSITION_ROOTS = ("runner.cli", "runner.driver")
# The one room in which a library may be imported.
ONLY = {
    "ray": {"runner.execution"},
    "optuna": {"runner.search"},
    "mlflow": {"runner.tracking", "reports.store"},
    "timm": {"cplearn.backbones", "cplearn.training"},
}
# Modules that import others by name, and which: the syntax tree does not show them.
BY_NAME = {
    "cplearn.data": [entry.module for entry in CATALOGUE.values()],
    "cplearn.outside": [],
    "cplearn.methods": [f"cplearn.methods.{path.stem}" for path in (ROOT / "cplearn/methods").glob("[a-z]*.py")],
}
# They find files of the program, not modules to run.
NAMES_FILES = {"runner.execution.nodes", "runner.cli.tools"}


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the four packages by its dotted name."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


@functools.cache
def imports(module: str) -> frozenset[str]:
    """Dotted names that a module imports, also inside functions, but not for type checking alone."""
    return frozenset(_imports(ast.parse(modules()[module].read_text()), module))


def _imports(node: ast.AST, module: str) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module}: relative import"
            for alias in child.names:
                full = f"{child.module}.{alias.name}"
                yield full if full in modules() else str(child.module)
        yield from _imports(child, module)


def belongs(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    for module in (name for name in modules() if belongs(name, package)):
        allowed = {"reports"} if any(belongs(module, root) for root in COMPOSITION_ROOTS) else set()
        wrong = {name.split(".")[0] for name in imports(module)} & (FORBIDDEN[package] - allowed)
        assert not wrong, f"{module} imports {wrong}"


@pytest.mark.parametrize("library", ONLY)
def test_a_library_has_one_room(library: str) -> None:
    users = {module for module in modules() if any(belongs(name, library) for name in imports(module))}
    assert users
    for module in users:
        assert any(belongs(module, room) for room in ONLY[library]), f"{module} imports {library}"


def test_only_the_named_modules_import_by_name() -> None:
    for module, path in modules().items():
        if "import_module(" in path.read_text() or "__import__(" in path.read_text():
            assert module in BY_NAME.keys() | NAMES_FILES, module


def test_there_are_no_import_cycles() -> None:
    arrows = {
        module: {name for name in (*imports(module), *BY_NAME.get(module, [])) if name in modules()}
        for module in modules()
    }
    while arrows:
        leaves = {module for module, targets in arrows.items() if not targets & (arrows.keys() - {module})}
        assert leaves, f"these import one another: {sorted(arrows)}"
        arrows = {module: targets for module, targets in arrows.items() if module not in leaves}


def test_planning_and_timing_know_no_ray() -> None:
    for module in modules():
        if belongs(module, "runner.planning") or belongs(module, "runner.timing"):
            assert not any(belongs(name, "runner.execution") for name in imports(module)), module


def test_nothing_imports_the_command_line() -> None:
    for module in modules():
        inside = belongs(module, "runner.cli")
        assert inside or not any(belongs(name, "runner.cli") for name in imports(module)), module


def test_every_folder_says_what_lives_in_it() -> None:
    for module, path in modules().items():
        if path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text()))
            assert text, module
            assert len(text) > 60, module


def test_every_file_fits_in_one_head() -> None:
    for module, path in modules().items():
        assert len(path.read_text().splitlines()) <= MOST_LINES, module


def test_every_dependency_says_who_needs_it() -> None:
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    start = lines.index("dependencies = [")
    for line in lines[start + 1 : lines.index("]", start)]:
        _, _, comment = line.partition("#")
        assert comment, line
        for word in comment.split():
            if word.partition("/")[0] in PACKAGES:
                assert (ROOT / word.rstrip(":;,")).exists(), f"{line}: there is no {word}"
