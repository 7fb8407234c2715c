"""Every block of code in the documentation is what it says: commands are accepted, files are valid, Python compiles.

What takes seconds is not run here: the options of a command are parsed by the command line itself. The commands and
the Python of the tutorial, of the front page and of the notebook are run in test_first_steps.py.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

from cplearn.config import trial as config
from reports.tables.spec import TableSpec
from runner.cli import app
from runner.planning.plan import SCHEMA
from support import ROOT
from sweeps.spec import read_sweep

PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
OTHERS = {
    *("awk", "cat", "cd", "createdb", "echo", "export", "git", "ls", "mlflow", "nvidia-cuda-mps-control"),
    *("optuna-dashboard", "python", "ray", "sleep", "source", "ssh"),
}
"""Programs that are not ours."""


ELSEWHERE = "docs/extend.md"
"""A page whose blocks are one package, which tests/cplearn/test_outside.py installs and sweeps."""


class Block(NamedTuple):
    page: str
    language: str
    text: str


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of all pages in some languages; in all without one."""
    found = [
        Block(str(path.relative_to(ROOT)), language, text)
        for path in PAGES
        for language, text in re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    ]
    if not languages:
        return found
    return [block for block in found if block.language in languages and block.page != ELSEWHERE]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a block: behind a prompt, comments left out, continued lines joined."""
    for line in re.findall(r"^\w*\$ +(.*)$", text.replace("\\\n", " "), flags=re.MULTILINE):
        yield shlex.split(line, comments=True)


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert {block.language for block in blocks()} == {"console", "bash", "python", "yaml", "toml", "mermaid", "text"}
    for path in PAGES:
        assert not re.search(r"^ {4}\$? ?(cplearn|make) ", path.read_text(), flags=re.MULTILINE), f"{path}: use a fence"


@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: f"{block.page}: {block.text[:30]!r}")
def test_commands_are_accepted(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "last.ckpt").touch()
    found = list(commands(block.text))
    assert found, "a console block needs a prompt"
    for words in found:
        while "=" in words[0]:  # A variable of the environment for this command.
            words = words[1:]
        if words[0] == "for":
            continue
        program = Path(words[0]).name
        assert program in OTHERS | {"cplearn", "make"}, program
        if program == "cplearn":
            check_cplearn(words[1:])
        elif program == "make":
            check_make(words[1:])


def check_make(words: list[str]) -> None:
    """Check a call of make: its targets and variables exist, and the commands behind it are accepted."""
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        name, sign, _ = word.partition("=")
        assert re.search(rf"^{name}\s*\?=" if sign else rf"^{name}:", makefile, flags=re.MULTILINE), word
    # `-o` takes the environment as built; `-n` prints the commands instead of running them.
    call = ["make", "-n", "-o", ".venv/.ready", *words]
    printed = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for line in printed.replace("\\\n", " ").splitlines():
        if line.startswith(".venv/bin/cplearn "):
            check_cplearn(shlex.split(line)[1:])


def check_cplearn(words: list[str]) -> None:
    """Check a call of cplearn: its options, sweep, table and settings exist."""
    if words == ["COMMAND", "--help"]:
        return
    group = typer.main.get_command(app)
    name, command, rest = group.resolve_command(typer.Context(group), words)
    with command.make_context(name, rest) as context:
        given: Mapping[str, Any] = context.params
    known = config.known_keys().keys()
    assert {text.partition("=")[0] for text in given.get("settings") or ()} <= known, words
    if name in ("sweep", "plan"):
        check_sweep(given)


def check_sweep(given: Mapping[str, Any]) -> None:
    """Check that a sweep of the program has the scale that is asked for, and takes the settings."""
    stem = Path(given["sweep"]).stem
    if stem == "my-sweep":
        return
    overrides = {key: yaml.safe_load(text) for key, _, text in (one.partition("=") for one in given["settings"])}
    if given["dataset"]:
        overrides["dataset"] = given["dataset"]
    paths = [ROOT / "sweeps" / f"{stem}.yaml", ROOT / "sweeps" / "presets" / f"{stem}.yaml"]
    (path,) = [path for path in paths if path.exists()]
    assert read_sweep(path, SCHEMA, overrides, given["seeds"], given["scale"]).seeds


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: f"{block.page}: {block.text[:30]!r}")
def test_files_are_valid(block: Block, tmp_path: Path) -> None:
    """A part of a sweep file or of a table's specification is completed to a whole one."""
    content = yaml.safe_load(block.text)
    if "table" in content or "study" in content:
        case = {"cases": {"CPLearn": {"method": "cplearn"}}}
        whole = {"table": "part", "title": "A part.", "rows": ["metric", case], **content}
        assert TableSpec.model_validate(whole).metrics
        return
    whole = {"sweep": "part", "settings": {"method": "cplearn"}, **content}
    path = tmp_path / "part.yaml"
    path.write_text(yaml.safe_dump(whole))
    assert read_sweep(path, SCHEMA).name == whole["sweep"]


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: f"{block.page}: {block.text[:30]!r}")
def test_python_compiles(block: Block) -> None:
    compile(block.text, block.page, "exec")


@pytest.mark.parametrize("block", blocks("bash"), ids=lambda block: block.page)
def test_scripts_are_accepted_by_the_shell(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in block.text.replace("\\\n", " ").splitlines():
        if command := re.search(r"(?<!/)\bcplearn (.*?)(?: &)?$", line):
            check_cplearn(shlex.split(command[1]))
