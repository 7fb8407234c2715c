"""Methods, data sets and backbones from outside: the package of docs/extend.md, by dotted names and registered."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

import cplearn.data
from cplearn import backbones, methods, outside
from cplearn.config import trial as config
from cplearn.config.trial import TrialSettings
from cplearn.errors import InputError
from outside_package import write_package
from trials import run

SETTINGS = {
    "dataset": "my_lab.shapes",
    "method": {"name": "my_lab.alignment", "weight": 0.5},
    "backbone": {"name": "my_lab.strided", "layers": 2, "width": 4},
    "epochs": 2,
}


def forget() -> None:
    """What a process has seen of packages that a test brings and takes away."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    for remembered in (outside._digest, outside.registered, config._defaults, backbones.external.check):
        remembered.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    write_package(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()
    yield tmp_path
    forget()


def trial(**changes: object) -> TrialSettings:
    return TrialSettings.read({**SETTINGS, **changes})


def test_a_trial_of_nothing_but_code_from_outside(folder: Path) -> None:
    settings = trial()
    assert TrialSettings.read(settings.canonical()) == settings
    assert settings.identity()["backbone.layers"] == 2
    data = cplearn.data.load(**settings.data_request())
    assert (data.classes, len(data.train.images), data.image_size) == (("disc", "square", "cross"), 300, 16)
    trained, logs = run(settings, data)
    assert logs[0].keys() >= {"train/alignment", "train/uniformity"}
    assert trained.model.backbone.features == 8
    again, _ = run(settings, data)
    weights = zip(trained.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in weights), "its initial weights come from the trial's seed"
    assert trained.evaluate().metrics["probe/accuracy"] > 0.5


def test_registered_names_do_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = {"alignment": outside.METHODS, "shapes": outside.DATASETS, "strided": outside.BACKBONES}
    entries = [EntryPoint(name, f"my_lab.{name}", group) for name, group in groups.items()]
    monkeypatch.setattr(outside, "entry_points", lambda group: [entry for entry in entries if entry.group == group])
    outside.registered.cache_clear()
    assert "alignment" in methods.names()
    assert "shapes" in cplearn.data.catalogue.names()
    assert "method.weight" in config.known_keys()
    settings = trial(dataset="shapes", method="alignment", backbone={"name": "strided"})
    assert settings.code_from_outside().keys() == {
        *("cplearn.datasets shapes", "cplearn.methods alignment", "cplearn.backbones strided")
    }
    with pytest.raises(InputError, match=r"unknown method.name 'alignement'; did you mean 'alignment'\?"):
        trial(method="alignement")
    (folder / "my_lab" / "alignment.py").write_text("raise RuntimeError('broken')")
    forget()
    assert "method.beta" in config.known_keys(), "a broken package of others stops nobody else"


def test_changed_code_is_another_trial(folder: Path) -> None:
    before = trial().code_from_outside()
    groups = {"datasets": "shapes", "methods": "alignment", "backbones": "strided"}
    assert before.keys() == {f"cplearn.{group} my_lab.{name}" for group, name in groups.items()}
    forget()
    assert trial().code_from_outside() == before
    (folder / "my_lab" / "helper.py").write_text("SCALE = 2\n")
    forget()
    after = trial().code_from_outside()
    assert all(after[name] != version for name, version in before.items()), "helpers of the package count too"
    assert TrialSettings.read({}).code_from_outside() == {}


def test_what_other_machines_need_is_the_whole_package(folder: Path) -> None:
    (folder / "alone.py").touch()
    assert outside.paths(["my_lab.shapes", "my_lab.alignment", "digits"]) == [str(folder / "my_lab")]
    assert outside._locations("alone") == [folder / "alone.py"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "nowhere.method"}, r"method.name 'nowhere.method': there is no module 'nowhere'; install it, or"),
        ({"method": "my_lab.nothing"}, r"there is no module 'my_lab.nothing'"),
        ({"method": "my_lab.shapes"}, r"method.name 'my_lab.shapes': its module has no Settings and no Method"),
        ({"dataset": "my_lab.strided"}, r"dataset 'my_lab.strided': its module has no ENTRY and no source"),
        ({"dataset": "my_lab.shapes:x"}, r"write my_lab.shapes, or one of digits"),
        ({"backbone": {"name": "my_lab.shapes"}}, r"backbone.name 'my_lab.shapes': its module has no Settings"),
        ({"backbone": {"name": "my_lab.strided", "layer": 2}}, r"unknown key 'backbone.layer'; did you mean"),
        ({"backbone": {"name": "my_lab.strided", "stem": "imagenet"}}, r"backbone.stem has no effect on my_lab"),
        ({"method": {"name": "my_lab.alignment", "wieght": 1}}, r"unknown key 'method.wieght'; did you mean"),
        ({"method": "..x"}, r"unknown method.name '..x'"),
    ],
)
def test_mistakes_are_one_sentence(folder: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trial(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise RuntimeError('of two\\nlines')", r"its module cannot be imported \(RuntimeError: of two lines\)"),
        ("import no_such_library", r"there is no module 'no_such_library'"),
    ],
)
def test_a_module_that_raises_is_one_sentence(folder: Path, text: str, message: str) -> None:
    (folder / "my_lab" / "alignment.py").write_text(text)
    with pytest.raises(InputError, match=message):
        trial()


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ("network.features = outputs + 1", r"cannot take images .* \(it gives \(2, 8\) for 2 images, not \(2, 9\)\)"),
        ("", r"must have the number of its features as the attribute 'features'"),
        ("network.features = outputs; network.append(nn.Dropout())", r"draws random numbers that no seed of a trial"),
        ("raise ValueError('too small.')", r"cannot take images of 16 pixels with these settings \(too small\)"),
    ],
)
def test_a_backbone_is_tried_before_anything_starts(folder: Path, last: str, message: str) -> None:
    path = folder / "my_lab" / "strided.py"
    path.write_text(path.read_text().replace("network.features = outputs", last))
    with pytest.raises(InputError, match=message):
        backbones.check(trial().backbone, 1, 16)
