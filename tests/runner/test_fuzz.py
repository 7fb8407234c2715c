"""Hundreds of ways to get a sweep file or an option wrong: one clear sentence and status 2, and nothing is left behind.

The mutants go through `cplearn plan`, which reads and checks all that `cplearn sweep` does before it starts anything; a
dozen go through the real command.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from fuzzing import KEYS, ODD, Workplace, count, damage, mutate, one_sentence


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("fuzz"))


def shipped(root: Path) -> list[dict[str, Any]]:
    """The sweep files of the repository, all on the embedded data, because planning fetches the others."""
    documents = [yaml.safe_load(path.read_text()) for path in sorted((root / "sweeps").glob("*.yaml"))]
    for document in documents:
        document["settings"]["dataset"] = "digits"
        if "dataset" in document.get("axes", {}):
            document["axes"]["dataset"] = ["digits"]
    assert len(documents) >= 3
    return documents


@pytest.mark.parametrize("part", range(2))
def test_a_mutated_file_is_planned_or_refused(workplace: Workplace, root: Path, part: int) -> None:
    draw, documents, mutants = random.Random(part), shipped(root), count("sweep files") // 2
    before, refused = workplace.left() | {"data", "mutant.yaml"}, 0
    file = workplace.folder / "mutant.yaml"
    for i in range(mutants):
        document = draw.choice(documents)
        if i % 4:
            text = yaml.safe_dump(mutate(document, draw), allow_unicode=True, sort_keys=False)
            file.write_text(text, encoding="utf-8")
        else:
            file.write_bytes(damage(yaml.safe_dump(document, allow_unicode=True, sort_keys=False), draw))
        try:
            code, said, complained = workplace.run("plan", "mutant.yaml")
            if code:
                one_sentence(code, said, complained)
                refused += 1
        except BaseException:
            sys.stderr.write(f"the mutant was:\n{file.read_bytes()!r}\n")
            raise
    assert workplace.left() <= before
    assert mutants // 5 < refused < mutants, "the mutants are all alike"


def test_the_files_that_are_mutated_are_planned(workplace: Workplace, root: Path) -> None:
    """Otherwise every mutant would be refused for the same reason."""
    for document in shipped(root):
        (workplace.folder / "mutant.yaml").write_text(yaml.safe_dump(document, allow_unicode=True))
        code, said, complained = workplace.run("plan", "mutant.yaml", "--json")
        assert (code, complained) == (0, "")
        assert json.loads(said)["counts"]["new"] > 0


HEAD = "sweep: bad\n"
BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghijklm"))
BAD_FILES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "a sweep file is a group of keys"),
    "a list": ("[1, 2]", "a sweep file is a group of keys"),
    "bytes": (bytes(range(256)), "cannot be read"),
    "aliases": (BOMB + HEAD, "aliases"),
    "deep lists": (HEAD + "settings: " + "[" * 20_000 + "]" * 20_000, "nested too deeply"),
    "deep groups": (HEAD + "settings: " + "{a: " * 20_000 + "1" + "}" * 20_000, "nested too deeply"),
    "huge word": (HEAD + "description: " + "x" * 3_000_000, "larger than"),
    "huge number": (HEAD + "seeds: " + "9" * 4_000, "seeds"),
    "too many seeds": (HEAD + "seeds: 1000000000", "seeds"),
    "too many trials": (HEAD + "samples: 100000\nseeds: 1000\naxes: {method.beta: {uniform: [1, 2]}}", "trials"),
    "code": (HEAD + "description: !!python/object/apply:os.system ['touch harmed']", "description: the tag !!python"),
    "twice": (HEAD + "sweep: worse", "'sweep' is written twice"),
    "tab": (HEAD + "settings:\n\tepochs: 1", "not valid YAML in line 3"),
    "unknown key": (HEAD + "setings: {}", "did you mean 'settings'?"),
    "unknown setting": (HEAD + "settings: {epoch: 3}", "did you mean 'epochs'?"),
    "unknown data set": (HEAD + "settings: {dataset: svnh}", "did you mean 'svhn'?"),
    "no such folder": (HEAD + "settings: {dataset: 'folder:/nowhere'}", "/nowhere"),
    "negative beta": (HEAD + "settings: {method.beta: -0.5}", "method.beta: must be greater than 0, not -0.5"),
    "nan": (HEAD + "settings: {method.beta: .nan}", "method.beta"),
    "infinite": (HEAD + "axes: {optimizer.lr: [.inf]}", "optimizer.lr"),
    "one code": (HEAD + "settings: {method.codes: 1}", "method.codes: must be greater than or equal to 2, not 1"),
    "negative epochs": (HEAD + "settings: {epochs: -1}", "epochs"),
    "text for a number": (HEAD + "settings: {epochs: many}", "epochs"),
    "huge batch": (HEAD + "settings: {batch_size: 1000000}", "batch_size 1000000"),
    "huge dictionary": (HEAD + "settings: {method: {codes: 99999999, embedding_dim: 999999, temperature: 1}}", "TB"),
    "endless width": (HEAD + "settings: {backbone.width: 1000000000000000000}", "model"),
    "no values": (HEAD + "axes: {method.beta: []}", "must be a list of values"),
    "range upside down": (HEAD + "axes: {method.beta: {uniform: [2, 1]}}", "the lower first"),
    "a name that leaves the folder": ("sweep: ../../etc", "sweep"),
    "seed as an axis": (HEAD + "axes: {seed: [1, 2]}", "write seeds under 'seeds'"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("command", ["plan", "sweep"])
def test_what_must_be_refused_is(workplace: Workplace, command: str, name: str) -> None:
    content, expected = BAD_FILES[name]
    file = workplace.folder / "mutant.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = workplace.left() | {"data"}
    assert expected in one_sentence(*workplace.run(command, "mutant.yaml"))
    assert workplace.left() <= before


BAD_OPTIONS: dict[str, tuple[list[str], str]] = {
    "a folder as file": (["."], "not a file"),
    "no file": (["none.yaml"], "no such sweep file"),
    "no name": (["btea"], "did you mean 'beta'?"),
    "a device": (["/dev/zero"], "not a file"),
    "set without value": (["good.yaml", "--set", "method.beta"], "write it as key=value"),
    "set of nothing": (["good.yaml", "--set", "=1"], "write it as key=value"),
    "set to a bomb": (["good.yaml", "--set", "method.beta=" + "[" * 5_000], "nested too deeply"),
    "set to code": (["good.yaml", "--set", "epochs=!!python/name:os.system"], "the tag !!python"),
    "set to a group": (["good.yaml", "--set", "epochs={a: 1}"], "epochs"),
    "set a group to a number": (["good.yaml", "--set", "optimizer=3"], "optimizer"),
    "set twice": (["good.yaml", "--set", "method.beta=[1,-1]"], "method.beta"),
    "no cpu": (["good.yaml", "--cpus-per-trial", "0"], "CPUs per trial"),
    "cpus that are no number": (["good.yaml", "--cpus-per-trial", "nan"], "CPUs per trial"),
    "endless cpus": (["good.yaml", "--cpus-per-trial", "inf"], "CPUs per trial"),
    "negative gpus": (["good.yaml", "--gpus-per-trial", "-1"], "GPUs per trial"),
    "gpus that are no number": (["good.yaml", "--gpus-per-trial", "nan"], "GPUs per trial"),
    "more gpus than there are": (["good.yaml", "--gpus-per-trial", "64"], "ask for less"),
    "budget of nothing": (["good.yaml", "--budget", "0h"], "write a time such as 90m"),
    "budget in words": (["good.yaml", "--budget", "soon"], "write a time such as 90m"),
    "results in a file": (["good.yaml", "--results", "file/results"], "--results"),
    "results in /proc": (["good.yaml", "--results", "/proc/none/results"], "--results"),
    "store in a file": (["good.yaml", "--tracking-uri", "sqlite:///file/mlflow.db"], "tracking"),
    "store in /proc": (["good.yaml", "--tracking-uri", "sqlite:////proc/mlflow.db"], "tracking"),
    "store that is a folder": (["good.yaml", "--tracking-uri", "sqlite:////tmp"], "tracking"),
    "store that is no database": (["good.yaml", "--tracking-uri", "sqlite:///file"], "not a database"),
    "no kind of store": (["good.yaml", "--tracking-uri", "gopher://example"], "tracking"),
    "a server that is not there": (["good.yaml", "--tracking-uri", "http://u:hunter2@127.0.0.1:9"], "does not answer"),
    "data in a file": (["good.yaml", "--dataset", "svhn", "--data-root", "file/data"], "file/data"),
    "data in /proc": (["good.yaml", "--dataset", "cifar10", "--data-root", "/proc/none"], "/proc/none"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_OPTIONS)
@pytest.mark.parametrize("command", ["plan", "sweep"])
def test_options_and_paths_that_cannot_be_are_refused(workplace: Workplace, command: str, name: str) -> None:
    (workplace.folder / "good.yaml").write_text(HEAD)
    before = workplace.left() | {"data"}
    arguments, expected = BAD_OPTIONS[name]
    message = one_sentence(*workplace.run(command, *arguments))
    assert expected in message
    assert "hunter2" not in message
    assert workplace.left() <= before


def test_overrides_are_planned_or_refused(workplace: Workplace) -> None:
    (workplace.folder / "good.yaml").write_text(HEAD)
    draw, before, codes = random.Random(7), workplace.left() | {"data", "good.yaml"}, []
    for _ in range(count("--set")):
        value = draw.choice(
            [*map(str, ODD), "[1, 2]", "1e-3", "'", "{", "\t", "a: b: c", "&a 1", "*a", "%", "@", "\x00", "\x1b[2J"]
        )
        code, said, complained = workplace.run("plan", "good.yaml", "--set", f"{draw.choice(KEYS)}={value}")
        codes.append(code)
        if code:
            assert "\x1b" not in one_sentence(code, said, complained)
    assert workplace.left() <= before
    assert set(codes) == {0, 2}


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", "--tracking-uri", "sqlite:///file"],
        ["report", "--tracking-uri", "sqlite:////tmp"],
        ["data", "svhn", "--data-root", "file/data"],
        ["data", "folder:file"],
        ["train", "--set", "method.beta=-1"],
        ["train", "--save", "file/model"],
        ["train", "--epochs", "0", "--device", "quantum"],
        ["settings", "../config"],
        ["bench", "none"],
        ["ui", "--tracking-uri", "gopher://example"],
        ["verify", "--tracking-uri", "http://127.0.0.1:9"],
        ["plan", "good.yaml", "--checkpoints", "file/checkpoints"],
    ],
)
def test_other_commands_refuse_as_plainly(workplace: Workplace, arguments: list[str]) -> None:
    before = workplace.left() | {"data"}
    one_sentence(*workplace.run(*arguments))
    assert workplace.left() <= before


def test_a_port_that_is_taken_is_refused(workplace: Workplace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = one_sentence(*workplace.run("ui", "--port", str(taken.getsockname()[1])))
    assert "Address already in use; choose another" in said


@pytest.mark.parametrize("name", ["aliases", "negative beta", "unknown data set", "deep groups"])
def test_the_command_itself_ends_with_status_2(tmp_path: Path, name: str) -> None:
    content, expected = BAD_FILES[name]
    (tmp_path / "bad.yaml").write_text(str(content))
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli", "sweep", "bad.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert expected in one_sentence(done.returncode, done.stdout, done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]
