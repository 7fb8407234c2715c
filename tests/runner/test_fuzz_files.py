"""Table files, table.json, conditions, checkpoints and folders of images: whatever is in them, at most one sentence."""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import cplearn.data
from cplearn import solo
from cplearn.backbones import resnet
from cplearn.config.groups import BackboneSettings
from cplearn.data import Dataset
from cplearn.errors import InputError
from cplearn.training import TrialTraining
from fuzzing import KEYS, ODD, Workplace, count, damage, mutate, one_sentence
from reports import figures, store
from reports.tables import spec
from runner.durability.checkpoints import Checkpoints
from runner.execution.contract import StepReport
from runner.execution.trainable import TrialTrainable
from stores import Writer, declare, sqlite, trial_metrics
from trials import trial

CODES = (128, 16384)


@contextmanager
def shown(mutant: object) -> Iterator[None]:
    """Print what was tried where it ends in anything but a sentence."""
    try:
        yield
    except BaseException:
        sys.stderr.write(f"the mutant was:\n{mutant!r}"[:20_000] + "\n")
        raise


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """A store with a sweep and its written tables; it is read once and remembered, which takes most of the time."""
    folder = tmp_path_factory.mktemp("fuzz-reports")
    writer, trials = Writer(sqlite(folder), folder / "artifacts"), []
    for seed in (0, 1):
        for codes in CODES:
            point = {"arm": "cplearn", "method.codes": codes, "method.beta": 0.1}
            trials.append(declare("svhn", f"cplearn c={codes}", point, seed))
            settings = {"method.name": "cplearn", "dataset": "svhn", **point}
            metrics = {"validation/accuracy": 0.7, **trial_metrics(0.1, seed)}
            writer.trial("t1", {**trials[-1], "point": {}}, metrics=metrics, settings=settings)
    writer.sweep("t1", "", {"arm": ["cplearn"], "method.codes": list(CODES)}, "svhn", trials)
    place = Workplace(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("read_trials", "read_sweep", "read_keys", "open_experiment"):
            patch.setattr(store, name, remembered(getattr(store, name)))
        patch.setattr(figures, "plots", lambda *arguments: [])  # They take seconds, and no mutant reads them.
        assert place.run("report", "t1")[0] == 0
        assert place.run("report", "--table", "table1")[0] == 0
        yield place


def remembered(read: Callable[..., Any]) -> Callable[..., Any]:
    cached = functools.cache(lambda arguments: read(*json.loads(arguments)))
    return lambda *arguments: copy.copy(cached(json.dumps(arguments, default=sorted)))


def test_a_mutated_table_file_is_written_or_refused(reports: Workplace) -> None:
    draw = random.Random("tables")
    texts = [path.read_text() for path in sorted(spec.FOLDER.glob("*.yaml"))]
    keys = [
        *KEYS,
        *spec.TableSpec.model_fields,
        *spec.Dimension.model_fields,
        *spec.Selection.model_fields,
        *spec.StudySettings.model_fields,
    ]
    odd = [*ODD, *keys, "metric", "axes", "probe/accuracy", "validation/accuracy", {"key": "dataset"}, ["metric"]]
    codes = []
    for i in range(count("table files")):
        text = draw.choice(texts)
        if i % 4:
            text = yaml.safe_dump(mutate(yaml.safe_load(text), draw, odd), allow_unicode=True, sort_keys=False)
        content = text.encode() if i % 4 else damage(text, draw)
        (reports.folder / "mutant.yaml").write_bytes(content)
        with shown(content):
            code, said, complained = reports.run("report", "--table", "mutant.yaml", "--results", "mutants")
            codes.append(code)
            if code:
                one_sentence(code, said, complained)
    assert set(codes) == {0, 2}


def test_a_condition_is_met_or_refused(reports: Workplace) -> None:
    draw, codes = random.Random("where"), []
    keys = ["method.codes", "dataset", "data fingerprint", "numerics", "seed", *KEYS]
    values = [
        *map(str, ODD),
        *map(str, CODES),
        "[128, 16384]",
        "svhn",
        "1e-3",
        "0123",
        "'",
        "{",
        "&a 1",
        "!!bool x",
        "\x00",
    ]
    for _ in range(count("--where")):
        condition = f"{draw.choice(keys)}={draw.choice(values)}"
        with shown(condition):
            code, said, complained = reports.run("report", "--table", "table1", "--where", condition)
            codes.append(code)
            if code:
                one_sentence(code, said, complained)
    assert 2 in codes


def test_a_fingerprint_of_digits_alone_is_a_word(reports: Workplace) -> None:
    condition = "data fingerprint=01234567890123456789012345678901"
    said = one_sentence(*reports.run("report", "--table", "table1", "--where", condition))
    assert f"matches its rows and {condition}" in said


def test_a_mutated_table_json_is_checked_or_refused(reports: Workplace) -> None:
    draw, codes = random.Random("table.json"), []
    written = sorted(reports.folder.rglob("table.json"))
    assert len(written) >= 2
    odd = [*ODD, "\ud800", 1e400, -3, 10**9]
    for i in range(count("table.json")):
        folder = reports.folder / "copied"
        path = draw.choice(written)
        shutil.copytree(path.parent, folder, dirs_exist_ok=True)
        text = path.read_text()
        content = json.dumps(mutate(json.loads(text), draw, odd)).encode() if i % 4 else damage(text, draw)
        (folder / "table.json").write_bytes(content)
        command = ["verify", "copied"] if i % 3 else ["trace", "copied/table.json", "c = 128", "linear"]
        with shown(content):
            code, said, complained = reports.run(*command)
            codes.append(code)
            if code == 2:
                one_sentence(code, said, complained)
            elif code:
                assert "drift" in complained
        shutil.rmtree(folder)
    assert {1, 2} <= set(codes)


def odd_tensors() -> list[Any]:
    return [
        torch.ones(2, 2).to_sparse(), torch.ones(2, device="meta"), torch.ones(2).to(torch.float8_e4m3fn),
        torch.ones(0), torch.ones(1).expand(10**6, 10**6), torch.tensor(float("nan")),
        torch.ones(2, dtype=torch.complex64), torch.ones(3, 3), torch.ones((), dtype=torch.int64), (1, 2),
        {1, 2}, b"bytes",
    ]  # fmt: skip


def test_a_mutated_foreign_checkpoint_is_read_or_refused(digits: Dataset, tmp_path: Path) -> None:
    draw, path, outcomes = random.Random("solo"), tmp_path / "last.ckpt", set()
    small = resnet.build(BackboneSettings.model_validate({"name": "resnet18", "width": 2}), 1)
    state: dict[str, Any] = {solo._name_of_torchvision(n): t for n, t in small.state_dict().items()}
    state |= {"projector.0.weight": torch.ones(3, 16), "projector.0.bias": torch.ones(3)}
    state |= {f"projector.1.{part}": torch.ones(3) for part in ("weight", "bias", "running_mean", "running_var")}
    state["weights"] = torch.ones(3, 5)
    arguments = {"backbone": {"name": "resnet18"}, "method_kwargs": {"beta": 0.5}, "max_epochs": 3}
    arguments |= {"optimizer": {"batch_size": 32}, "data": {"dataset": "digits"}}
    odd = [*ODD, *odd_tensors(), 10**400]
    for i in range(count("import-solo")):
        file, beside = {"epoch": 1, "state_dict": dict(state)}, json.dumps(arguments)
        if i % 3 == 0:
            beside = json.dumps(mutate(arguments, draw, [*ODD, 10**400]))
        elif i % 3 == 1:
            file = mutate(file, draw, odd)
        torch.save(file, path)
        if i % 9 == 2:
            path.write_bytes(damage(path.read_bytes(), draw))
        (tmp_path / "args.json").write_bytes(damage(beside, draw) if i % 9 == 5 else beside.encode())
        with shown((file.keys(), beside)):
            try:
                solo.restore(solo.read(path), digits)
                outcomes.add(True)
            except InputError:
                outcomes.add(False)
    assert outcomes == {True, False}


def test_a_mutated_checkpoint_never_fails_its_trial(digits: Dataset, tmp_path: Path) -> None:
    draw, worker = random.Random("own"), TrialTrainable.__new__(TrialTrainable)
    settings = trial(epochs=3, method={"codes": 12, "embedding_dim": 8}, evaluation={"online_probe": True})
    worker.report = StepReport()
    worker._make = lambda: TrialTraining(settings, digits)  # type: ignore[method-assign]
    store, states = Checkpoints(str(tmp_path)), []
    straight = worker._make()
    for _ in range(2):
        straight.train_epoch()
        states.append({**straight.state_dict(), "history": [(straight.epoch, 1, {"train/loss": 0.5})]})
    for i in range(count("own checkpoints")):
        mutant = {**mutate(states[1], draw, [*ODD, *odd_tensors()]), "epoch": 2}
        with shown(f"mutant {i}"):
            for state in (states[0], mutant):
                store.save("aa", state)
            worker.training = worker._make()
            note = store.restore("aa", worker._go_on)
            assert worker.training.epoch == (1 if note else 2)
            worker.training.train_epoch()


def ways(folder: Path, draw: random.Random) -> dict[str, Callable[[Path], object]]:
    """What can be wrong with an image file, or its place."""
    large, small = Image.new("L", (2_000, 2_000)), Image.effect_noise((9, 9), 50)
    return {
        "damaged": lambda path: path.write_bytes(damage(path.read_bytes(), draw)),
        "cut": lambda path: path.write_bytes(path.read_bytes()[: draw.randrange(200)]),
        "another format": lambda path: small.save(path, format=draw.choice(["GIF", "TIFF", "WEBP", "BMP"])),
        "text": lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n"),
        "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
        "a link to itself": lambda path: (path.unlink(), path.symlink_to(path)),
        "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nothing")),
        "a link to a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
        "a folder": lambda path: (path.unlink(), path.mkdir()),
        "gone": lambda path: path.unlink(),
        "an odd name": lambda path: path.rename(path.with_name(f"\udcff\n{draw.random()}.png")),
        "a long name": lambda path: path.rename(path.with_name("x" * 250 + ".png")),
        "a class gone": lambda path: shutil.rmtree(path.parent),
        "a class renamed": lambda path: path.parent.rename(path.parent.with_name("\x1b[31m$\\foo$")),
        "a file among classes": lambda path: (path.parent.parent / "x.png").write_bytes(b""),
        "another size": lambda path: large.save(path),
        "another mode": lambda path: large.convert(draw.choice(["F", "I", "CMYK", "P", "1", "LA"])).save(path, "TIFF"),
    }  # fmt: skip


def test_a_mutated_folder_of_images_is_loaded_or_refused(tmp_path: Path) -> None:
    draw, whole, outcomes = random.Random("folders"), tmp_path / "whole", set()
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (whole / split / name).mkdir(parents=True)
            for i in range(2):
                pixels = np.random.default_rng(i).integers(0, 255, (9, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(whole / split / name / f"{i}.png")
    for i in range(count("folders of images")):
        folder, root, done = tmp_path / f"mutant{i}", tmp_path / "data", []
        shutil.copytree(whole, folder)
        for _ in range(draw.randint(1, 2)):
            files = sorted(path for path in folder.rglob("*.png") if path.is_file() and path.stat().st_size)
            if files:
                name, change = draw.choice(sorted(ways(folder, draw).items()))
                change(draw.choice(files))
                done.append(name)
        with shown(done):
            try:
                decode = draw.choice(["cached", "on-demand"])
                dataset = cplearn.data.load(f"folder:{folder}", root, draw.choice([None, 8]), decode)
                assert len(dataset.train.images[:3]) > 0
                outcomes.add(True)
            except InputError:
                outcomes.add(False)
        shutil.rmtree(folder)
        shutil.rmtree(root, ignore_errors=True)
    assert outcomes == {True, False}
