"""Checkpoints of the authors' code (a fork of solo-learn) as models of ours.

The layout: a Lightning checkpoint whose `state_dict` holds `backbone.*` (torchvision's ResNet-18 without classifier,
with the stem for small images), `projector.0.*` (linear) and `projector.1.*` (BatchNorm), `weights` (the f x c
dictionary) and `classifier.*` (the online probe, left out here); settings lie beside it in `args.json`.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
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

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)
"""How the authors' code normalises RGB pixels in [0, 1], for CIFAR-10 and CIFAR-100 alike."""
PLAIN = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64}
"""Types of the tensors of a checkpoint."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds: `state` has the names of `cplearn.model.Model`; `settings` are those of a trial, without
    a data set; `dataset` is the name in `args.json`, None if there is none."""

    state: dict[str, Tensor]
    settings: dict[str, Any]
    dataset: str | None

    def trial(self, dataset: str) -> TrialSettings:
        """The trial that made the checkpoint, as far as the checkpoint tells, on a data set."""
        return TrialSettings.read({**self.settings, "dataset": dataset})


def restore(checkpoint: Checkpoint, dataset: Dataset, device: torch.device | str = "cpu") -> training.TrialTraining:
    """The imported model, ready for `TrialTraining.evaluate`; images are normalised as by the authors' code. Raises
    InputError if the images of the data set have another number of channels."""
    channels = checkpoint.state["backbone.0.0.weight"].shape[1]
    if dataset.channels != channels:
        raise InputError(
            f"the checkpoint is for images of {channels} channels, those of {dataset.name} have "
            f"{dataset.channels}; choose another data set",
            key="dataset",
        )
    trained = training.TrialTraining(checkpoint.trial(dataset.name), dataset, device)
    trained.model.load_state_dict(checkpoint.state)
    if channels == len(MEAN):
        trained.model.images |= {"mean": list(MEAN), "std": list(STD)}
    return trained


def read(path: Path, stem_padding: int = 2) -> Checkpoint:
    """Read a checkpoint and the `args.json` beside it, if there is one.

    `stem_padding` is the padding of the 3x3 stem, which no weight tells; 2 in the authors' code. Only tensors and plain
    containers are read, never code. Raises InputError if the file is missing, damaged, holds anything else, or is not
    in the layout above.
    """
    weights = _unpickle(path)

    def take(name: str, shape: Sequence[int | None]) -> Tensor:
        """The tensor `name` as float32, out of `weights`; a None in its shape stands for any length."""
        if name not in weights:
            raise InputError(f"{path}: the weights {name!r} are missing; expected a CPLearn model of solo-learn")
        tensor = weights.pop(name).detach()
        if len(shape) != tensor.ndim or any(a not in (None, b) for a, b in zip(shape, tensor.shape, strict=True)):
            wanted = " x ".join("any" if n is None else str(n) for n in shape)
            raise InputError(f"{path}: {name!r} has shape {tuple(tensor.shape)}, not {wanted}")
        if not tensor.isfinite().all():
            raise InputError(f"{path}: {name!r} does not hold finite numbers; the training may have diverged")
        return tensor.float()

    stem = take("backbone.conv1.weight", (None, None, 3, 3))
    backbone = {"name": "resnet18", "width": len(stem), "stem_padding": stem_padding}
    with torch.device("meta"):
        expected = resnet.build(BackboneSettings.model_validate(backbone), stem.shape[1]).state_dict()
    state = {"backbone.0.0.weight": stem} | {
        f"backbone.{name}": take(_name_of_torchvision(name), tensor.shape)
        for name, tensor in expected.items()
        if name != "0.0.weight" and not name.endswith(".num_batches_tracked")
    }
    signs = take("weights", (None, None))
    if not (signs.abs() == 1).all():
        raise InputError(f"{path}: the dictionary 'weights' holds other numbers than 1 and -1")
    f, codes = signs.shape
    state["method.dictionary"] = signs.T.to(torch.int8)
    state["method.linear.weight"] = take("projector.0.weight", (f, None))
    for part in ("weight", "bias", "running_mean", "running_var"):
        state[f"method.norm.{part}"] = take(f"projector.1.{part}", (f,))
    # BatchNorm subtracts the mean of what it is given, so a bias before it is the same as a lower running mean.
    state["method.norm.running_mean"] = state["method.norm.running_mean"] - take("projector.0.bias", (f,))
    # The online probe and the counters of batches have no place in a model.
    left = [n for n in weights if not n.startswith("classifier.") and not n.endswith(".num_batches_tracked")]
    if left:
        raise InputError(
            f"{path}: the weights {min(left)!r} have no place in a CPLearn model with a ResNet-18; only such "
            "checkpoints can be imported"
        )

    method = {"name": "cplearn", "form": "tanh", "codes": codes, "embedding_dim": f}
    arguments = _arguments(path.parent / "args.json")
    if (beta := _look_up(arguments, "method_kwargs", "beta")) is not None:
        method["beta"] = beta
    settings = {"backbone": backbone, "method": method, "augment": {"recipe": "solo-cifar"}}
    published = {"batch_size": _look_up(arguments, "optimizer", "batch_size"), "epochs": arguments.get("max_epochs")}
    settings |= {key: value for key, value in published.items() if value is not None}
    dataset = _look_up(arguments, "data", "dataset")
    return Checkpoint(state, settings, None if dataset is None else str(dataset))


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


def _unpickle(path: Path) -> dict[str, Tensor]:
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
    weights = file.get("state_dict") if isinstance(file, Mapping) else None
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{path}: no checkpoint of solo-learn; it has no state_dict of tensors")
    if odd := [name for name, value in weights.items() if not isinstance(name, str) or not _is_plain(value)]:
        raise InputError(f"{path}: {odd[0]!r} is no plain tensor of numbers; save it as one")
    return dict(weights)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor has numbers, in one of the PLAIN types, and all of them lie in memory."""
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta or tensor.dtype not in PLAIN:
        return False
    return 0 < tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _arguments(path: Path) -> Mapping[str, Any]:
    try:
        arguments = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(arguments, dict):
        raise InputError(f"{path}: expected the settings of solo-learn, not a {type(arguments).__name__}")
    if (name := _look_up(arguments, "backbone", "name")) not in (None, "resnet18"):
        raise InputError(f"{path}: the backbone is {name}; only resnet18 can be imported")
    return arguments


def _look_up(arguments: Mapping[str, Any], group: str, key: str) -> Any:
    inner = arguments.get(group)
    return inner.get(key) if isinstance(inner, Mapping) else None
