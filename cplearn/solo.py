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
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset
from cplearn.errors import InputError

STEM_PADDING = 2
"""Padding of the 3x3 stem in the authors' code. No weight tells it, so it can be overridden."""

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
"""How the authors' code normalises RGB pixels in [0, 1], for CIFAR-10 and CIFAR-100 alike."""

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: `state` has the names of `cplearn.model.Model`, of one member; `settings` those of a
    trial, without a data set; `dataset` is the name in `args.json`, None if there is none.
    """

    state: Weights
    settings: dict[str, Any]
    channels: int
    dataset: str | None

    def trial(self, dataset: str) -> TrialSettings:
        """The trial that made the checkpoint, as far as the checkpoint tells, on a data set."""
        return TrialSettings.read({**self.settings, "dataset": dataset})


def restore(checkpoint: Checkpoint, dataset: Dataset, device: torch.device | str = "cpu") -> training.Pack:
    """A pack of the one imported model, ready for `Pack.evaluate`; images are normalised as by the authors' code.

    Raises InputError if the images of the data set have another number of channels.
    """
    if dataset.channels != checkpoint.channels:
        raise InputError(
            f"the checkpoint is for images of {checkpoint.channels} channels, those of {dataset.name} have "
            f"{dataset.channels}; choose another data set",
            key="dataset",
        )
    pack = training.Pack([checkpoint.trial(dataset.name)], dataset, device)
    pack.model.load_state_dict(checkpoint.state)
    if checkpoint.channels == len(MEAN):
        pack.model.images |= {"mean": list(MEAN), "std": list(STD)}
    return pack


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
    state = {f"backbone.{ours}": value for ours, value in _backbone(names)}
    state |= {f"method.{ours}": value for ours, value in _method(names)}
    names.finish()
    codes, embedding_dim = state["method.dictionary"].shape[1:]
    width, channels = state["backbone.0.0.weight"].shape[:2]
    settings: dict[str, Any] = {
        "backbone": {"name": "resnet18", "width": width, "stem_padding": stem_padding},
        "method": {"name": "cplearn", "form": "tanh", "codes": codes, "embedding_dim": embedding_dim},
        "augment": {"recipe": "solo-cifar"},
    }
    arguments = _arguments(path.parent / "args.json")
    for group, key, ours in (("method_kwargs", "beta", "beta"), ("optimizer", "batch_size", "batch_size")):
        if (value := _look_up(arguments, group, key)) is not None:
            (settings["method"] if ours == "beta" else settings)[ours] = value
    if (epochs := arguments.get("max_epochs")) is not None:
        settings["epochs"] = epochs
    dataset = _look_up(arguments, "data", "dataset")
    return Checkpoint(state, settings, channels, None if dataset is None else str(dataset))


class _Names:
    """The tensors of a state dict by name; each is asked for once, and none may be left."""

    def __init__(self, path: Path, weights: Weights) -> None:
        self.path, self.weights = path, weights

    def take(self, name: str, shape: Sequence[int | None]) -> Tensor:
        """The tensor `name` as float32; a None in its shape stands for any length."""
        if name not in self.weights:
            raise InputError(f"{self.path}: the weights {name!r} are missing; expected a CPLearn model of solo-learn")
        tensor = self.weights.pop(name)
        if len(shape) != tensor.ndim or any(a not in (None, b) for a, b in zip(shape, tensor.shape, strict=True)):
            wanted = " x ".join("any" if n is None else str(n) for n in shape)
            raise InputError(f"{self.path}: {name!r} has shape {tuple(tensor.shape)}, not {wanted}")
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise InputError(f"{self.path}: {name!r} does not hold finite numbers; the training may have diverged")
        return tensor.float()

    def finish(self) -> None:
        """Raise InputError if a tensor is left that neither the online probe nor a counter of batches explains."""
        expected = ("classifier.",)
        left = [n for n in self.weights if not n.startswith(expected) and not n.endswith(".num_batches_tracked")]
        if left:
            raise InputError(
                f"{self.path}: the weights {left[0]!r} have no place in a CPLearn model with a ResNet-18; "
                f"only such checkpoints can be imported"
            )


def _backbone(names: _Names) -> Iterator[tuple[str, Tensor]]:
    """torchvision's names to those of `cplearn.backbones.resnet`."""
    stem = names.take("backbone.conv1.weight", (None, None, 3, 3))
    width = len(stem)
    yield "0.0.weight", stem
    yield from _norm(names, "backbone.bn1", "0.1", width)
    c_in = width
    for block in range(8):
        theirs, c_out = f"backbone.layer{block // 2 + 1}.{block % 2}", width * 2 ** (block // 2)
        for layer, channels in (1, c_in), (2, c_out):
            yield f"{block + 1}.conv{layer}.weight", names.take(f"{theirs}.conv{layer}.weight", (c_out, channels, 3, 3))
            yield from _norm(names, f"{theirs}.bn{layer}", f"{block + 1}.norm{layer}", c_out)
        if c_in != c_out:
            shortcut = names.take(f"{theirs}.downsample.0.weight", (c_out, c_in, 1, 1))
            yield f"{block + 1}.shortcut.0.weight", shortcut
            yield from _norm(names, f"{theirs}.downsample.1", f"{block + 1}.shortcut.1", c_out)
        c_in = c_out


def _norm(names: _Names, theirs: str, ours: str, channels: int) -> Iterator[tuple[str, Tensor]]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{ours}.{part}", names.take(f"{theirs}.{part}", (channels,))


def _method(names: _Names) -> Iterator[tuple[str, Tensor]]:
    """Projector and dictionary, with the axis of the members in front."""
    signs = names.take("weights", (None, None))
    if not (signs.abs() == 1).all():
        raise InputError(f"{names.path}: the dictionary 'weights' holds other numbers than 1 and -1")
    f = len(signs)
    yield "dictionary", signs.T.to(torch.int8)[None]
    linear = names.take("projector.0.weight", (f, None))
    yield "linear.weight", linear.T[None]
    norm = dict(_norm(names, "projector.1", "norm", f))
    # BatchNorm subtracts the mean of what it is given, so a bias before it is the same as a lower running mean.
    norm["norm.running_mean"] = norm["norm.running_mean"] - names.take("projector.0.bias", (f,))
    yield from norm.items()


def _unpickle(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        # Older versions of solo-learn keep their settings as a namespace, which is as plain as a dict.
        with torch.serialization.safe_globals([argparse.Namespace]):
            file = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "global" in str(error).lower():
            raise InputError(
                f"{path}: refused, because it holds more than tensors and plain containers; if you trust it, "
                "save its state_dict alone under that key"
            ) from error
        raise InputError(f"{path}: cannot be read as a checkpoint; it may be damaged") from error
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
