"""The documentation as a site: it builds without a broken link, and its reference has what the code has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cplearn.config import trial as config
from reports.metrics import METRICS
from runner.cli import COMMANDS
from support import needs_module

MOST_BYTES = 80_000
"""Of a picture: documentation is cloned by everybody."""


@pytest.fixture(scope="module")
def site(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does: a broken link or anchor fails it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@needs_module("mkdocs")
def test_the_reference_has_every_setting_metric_and_command(site: Path) -> None:
    def codes(page: str) -> set[str]:
        return set(re.findall(r"<code>([^<]+)</code>", (site / f"{page}.html").read_text()))

    assert set(config.known_keys()) <= codes("settings")
    assert set(METRICS) <= codes("metrics")
    commands = (site / "commands.html").read_text()
    assert all(f'id="{name}"' in commands for name in COMMANDS)
    assert {"sweep", "search.trials", "scheduler.patience", "axes.SETTING.log_uniform"} <= codes("sweep-file")
    assert {"table", "study.over", "select.by"} <= codes("table-file")


@needs_module("mkdocs")
def test_a_broken_link_fails_the_site(root: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# One\n\n[two](two.md), [three](#three)\n")
    settings = (root / "mkdocs.yml").read_text()
    without = re.sub(r"^hooks:.*\n|^nav:\n(?:[ \n].*\n)*", "", settings, flags=re.MULTILINE)
    (tmp_path / "mkdocs.yml").write_text(without)
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "two.md" in done.stderr
    assert "#three" in done.stderr


def headings(path: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_from_the_repository_lead_somewhere(root: Path, name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", (root / name).read_text()):
        path, _, anchor = target.partition("#")
        if not path.startswith("http"):
            assert (root / path).exists(), target
            assert not anchor or anchor in headings(root / path), target


def test_pages_that_the_code_names_exist(root: Path) -> None:
    for package in ("sweeps", "cplearn", "runner", "reports", "benchmarks", "tests"):
        for path in (root / package).rglob("*"):
            if path.suffix in (".py", ".yaml", ".j2"):
                for page in re.findall(r"\bdocs/[\w./-]+\.md\b", path.read_text()):
                    assert (root / page).exists(), f"{path} names {page}"


def test_the_front_page_is_short_and_its_pictures_are_small(root: Path) -> None:
    assert len((root / "README.md").read_text()) <= 7_000
    for picture in (root / "docs" / "images").iterdir():
        assert picture.stat().st_size <= MOST_BYTES, picture


def test_the_table_of_the_front_page_is_a_part_of_the_whole_one(root: Path) -> None:
    def table(page: str) -> dict[tuple[str, str], str]:
        lines = re.findall(r"^\|.*\|$", (root / page).read_text(), flags=re.MULTILINE)
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        return {(row[0], name): cell for row in rows for name, cell in zip(head, row, strict=False)}

    front = table("README.md")
    assert len(front) > 20
    assert front.items() <= table("docs/reading.md").items()


def test_the_notebook_is_a_valid_notebook(root: Path) -> None:
    notebook = json.loads((root / "docs" / "notebook.ipynb").read_text())
    assert notebook["nbformat"] == 4
    assert {cell["cell_type"] for cell in notebook["cells"]} == {"markdown", "code"}
