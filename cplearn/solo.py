"""Checkpoints of the authors' code (a fork of solo-learn) as models of ours.

The layout: a Lightning checkpoint whose `state_dict` holds `backbone.*` (torchvision's ResNet-18 without classifier,
with the stem for small images), `projector.0.*` (linear) and `projector.1.*` (BatchNorm), `weights` (the f x c
dictionary) and `classifier.*` (the online probe, left out here); settings lie beside it in `args.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cplearn import training
from cplearn.backbones import resnet
from cplearn.config.groups import BackboneSettings
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset
from cplearn.errors import InputError

STEM_PADDING = 2
"""Padding of the 3x3 stem in the authors' code. No weight tells it, so it can be overridden."""

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
"""How the authors' code normalises RGB pixels in [0, 1], for CIFAR-10 and CIFAR-100 alike."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: `state` has the names of `cplearn.model.Model`; `settings` are those of a trial, without
    a data set; `dataset` is the name in `args.json`, None if there is none.
    """

    state: dict[str, Tensor]
    settings: dict[str, Any]
    channels: int
    dataset: str | None

    def trial(self, dataset: str) -> TrialSettings:
        """The trial that made the checkpoint, as far as the checkpoint tells, on a data set."""
        return TrialSettings.read({**self.settings, "dataset": dataset})


def restore(checkpoint: Checkpoint, dataset: Dataset, device: torch.device | str = "cpu") -> training.TrialTraining:
    """The imported model, ready for `TrialTraining.evaluate`; images are normalised as by the authors' code.

    Raises InputError if the images of the data set have another number of channels.
    """
    if dataset.channels != checkpoint.channels:
        raise InputError(
            f"the checkpoint is for images of {checkpoint.channels} channels, those of {dataset.name} have "
            f"{dataset.channels}; choose another data set",
            key="dataset",
        )
    trained = training.TrialTraining(checkpoint.trial(dataset.name), dataset, device)
    trained.model.load_state_dict(checkpoint.state)
    if checkpoint.channels == len(MEAN):
        trained.model.images |= {"mean": list(MEAN), "std": list(STD)}
    return trained


def read(path: Path, stem_padding: int = STEM_PADDING) -> Checkpoint:
    """Read a checkpoint and the `args.json` beside it, if there is one.

    Only tensors and plain containers are read, never code. Raises InputError if the file is missing, damaged, holds
    anything else, or is not in the layout above.
    """
    file = _unpickle(path)
    weights = file.get("state_dict")
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{path}: no checkpoint of solo-learn; it has no state_dict of tensors")
    names = _Names(path, {name: value.detach() for name, value in weights.items()})
    width, channels = names.take("backbone.conv1.weight", (None, None, 3, 3)).shape[:2]
    backbone = {"name": "resnet18", "width": width, "stem_padding": stem_padding}
    state = dict(_backbone(names, backbone, channels)) | dict(_method(names))
    names.finish()
    codes, embedding_dim = state["method.dictionary"].shape
    settings: dict[str, Any] = {
        "backbone": backbone,
        "method": {"name": "cplearn", "form": "tanh", "codes": codes, "embedding_dim": embedding_dim},
        "augment": {"recipe": "solo-cifar"},
    }
    arguments = _arguments(path.parent / "args.json")
    if (beta := _look_up(arguments, "method_kwargs", "beta")) is not None:
        settings["method"]["beta"] = beta
    published = {"batch_size": _look_up(arguments, "optimizer", "batch_size"), "epochs": arguments.get("max_epochs")}
    settings |= {key: value for key, value in published.items() if value is not None}
    dataset = _look_up(arguments, "data", "dataset")
    return Checkpoint(state, settings, channels, None if dataset is None else str(dataset))


class _Names:
    """The tensors of a state dict by name; none may be left without being asked for."""

    def __init__(self, path: Path, weights: dict[str, Tensor]) -> None:
        self.path, self.weights = path, weights
        # The online probe and the counters of batches have no place in a model.
        expected = "classifier.", ".num_batches_tracked"
        self.left = {n for n in weights if not n.startswith(expected[0]) and not n.endswith(expected[1])}

    def take(self, name: str, shape: Sequence[int | None]) -> Tensor:
        """The tensor `name` as float32; a None in its shape stands for any length."""
        if name not in self.weights:
            raise InputError(f"{self.path}: the weights {name!r} are missing; expected a CPLearn model of solo-learn")
        self.left.discard(name)
        tensor = self.weights[name]
        if len(shape) != tensor.ndim or any(a not in (None, b) for a, b in zip(shape, tensor.shape, strict=True)):
            wanted = " x ".join("any" if n is None else str(n) for n in shape)
            raise InputError(f"{self.path}: {name!r} has shape {tuple(tensor.shape)}, not {wanted}")
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise InputError(f"{self.path}: {name!r} does not hold finite numbers; the training may have diverged")
        return tensor.float()

    def finish(self) -> None:
        """Raise InputError if a tensor is left."""
        if self.left:
            raise InputError(
                f"{self.path}: the weights {min(self.left)!r} have no place in a CPLearn model with a ResNet-18; "
                f"only such checkpoints can be imported"
            )


def _backbone(names: _Names, settings: dict[str, Any], channels: int) -> Iterator[tuple[str, Tensor]]:
    with torch.device("meta"):
        expected = resnet.build(BackboneSettings.model_validate(settings), channels).state_dict()
    for name, tensor in expected.items():
        if not name.endswith(".num_batches_tracked"):
            yield f"backbone.{name}", names.take(_name_of_torchvision(name), tensor.shape)


def _name_of_torchvision(name: str) -> str:
    """The authors' name of a tensor of our ResNet-18, whose first part counts the stem and the blocks.

    >>> _name_of_torchvision("0.1.weight"), _name_of_torchvision("3.shortcut.0.weight")
    ('backbone.bn1.weight', 'backbone.layer2.0.downsample.0.weight')
    """
    block, part, rest = name.split(".", 2)
    if block == "0":
        return f"backbone.{('conv1', 'bn1')[int(part)]}.{rest}"
    stage, place = divmod(int(block) - 1, 2)
    return f"backbone.layer{stage + 1}.{place}.{part.replace('norm', 'bn').replace('shortcut', 'downsample')}.{rest}"


def _method(names: _Names) -> Iterator[tuple[str, Tensor]]:
    """Projector and dictionary."""
    signs = names.take("weights", (None, None))
    if not (signs.abs() == 1).all():
        raise InputError(f"{names.path}: the dictionary 'weights' holds other numbers than 1 and -1")
    f = len(signs)
    yield "method.dictionary", signs.T.to(torch.int8)
    yield "method.linear.weight", names.take("projector.0.weight", (f, None))
    norm = {part: names.take(f"projector.1.{part}", (f,)) for part in ("weight", "bias", "running_mean", "running_var")}
    # BatchNorm subtracts the mean of what it is given, so a bias before it is the same as a lower running mean.
    norm["running_mean"] = norm["running_mean"] - names.take("projector.0.bias", (f,))
    yield from ((f"method.norm.{part}", tensor) for part, tensor in norm.items())


def _unpickle(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        # Older versions of solo-learn keep their settings as a namespace, which is as plain as a dict.
        with torch.serialization.safe_globals([argparse.Namespace]):
            file = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = "cannot be read as a checkpoint; it may be damaged"
        if "global" in str(error).lower():
            reason = (
                "refused, because it holds more than tensors and plain containers; if you trust it, save its "
                "state_dict alone under that key"
            )
        raise InputError(f"{path}: {reason}") from error
    if not isinstance(file, Mapping):
        raise InputError(f"{path}: no checkpoint of solo-learn; it holds a {type(file).__name__}")
    return file


def _arguments(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        arguments = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(arguments, dict):
        raise InputError(f"{path}: expected the settings of solo-learn, not a {type(arguments).__name__}")
    name = _look_up(arguments, "backbone", "name")
    if name not in (None, "resnet18"):
        raise InputError(f"{path}: the backbone is {name}; only resnet18 can be imported")
    return arguments


def _look_up(arguments: Mapping[str, Any], group: str, key: str) -> Any:
    inner = arguments.get(group)
    return inner.get(key) if isinstance(inner, Mapping) else None
