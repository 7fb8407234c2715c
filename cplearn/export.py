"""A trained backbone in the files of Hugging Face: safetensors and config.json, for other programs and for `read`."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cplearn import backbones
from cplearn.config.trial import TrialSettings
from cplearn.errors import InputError
from cplearn.model import CONFIG_FILE, Model

WEIGHTS_FILE = "model.safetensors"


def write(model: Model, folder: Path) -> dict[str, Any]:
    """Write model.safetensors and config.json of the backbone that is evaluated into `folder`; returns what config.json
    holds.

    Weights are float32 (float64 of a trial in that precision) under the names of timm for a timm model, else under our
    own. `timm.create_model("local-dir:FOLDER", pretrained=True)` makes the former, `read` makes both.
    Raises InputError for raw pixels, which have no weights.
    """
    from safetensors.torch import save

    settings, images = model.trial.backbone, model.images
    prefix, state = _prefix(settings.name), model.evaluated.state_dict()
    weights = {name.removeprefix(prefix): value.contiguous() for name, value in state.items()}
    if not weights:
        raise InputError(f"backbone {settings.name} has no weights, so there is nothing to export")
    channels, size = images["channels"], images["image_size"]
    mean, std = ([n] * channels if isinstance(n := images[key], float | int) else list(n) for key in ("mean", "std"))
    config = {
        "library_name": "timm" if settings.name == "timm" else "cplearn",
        "architecture": getattr(settings, "model", None) or settings.name,
        "num_classes": 0,
        "num_features": int(model.backbone.features),
        "pretrained_cfg": {"input_size": [channels, size, size], "mean": mean, "std": std, "num_classes": 0},
        "cplearn": {"backbone": settings.model_dump(exclude_none=True), "method": model.trial.method.name},
    }
    if settings.name == "timm":
        config["model_args"] = {"in_chans": channels} | model.backbone.size_options
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS_FILE).write_bytes(save(weights, metadata={"format": "pt"}))
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    return config


def read(folder: Path) -> nn.Module:
    """The backbone that `write` has left in a folder, in evaluation mode: normalised images (N, C, H, W) to features
    (N, F). Raises InputError where there is none."""
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
        channels, size, _ = config["pretrained_cfg"]["input_size"]
        settings = TrialSettings.read({"backbone": config["cplearn"]["backbone"]}).backbone
        network = backbones.build(settings, channels, size, torch.Generator().manual_seed(0))
        weights = load_file(folder / WEIGHTS_FILE)
        network.to(next(value.dtype for value in weights.values() if value.is_floating_point()))
        prefix = _prefix(settings.name)
        network.load_state_dict({prefix + name: value for name, value in weights.items()})
    except Exception as error:
        raise InputError(f"{folder}: no exported backbone that can be read ({error})") from error
    return network.eval()


def _prefix(backbone: str) -> str:
    """What stands before the names of timm's weights in ours."""
    return "network." if backbone == "timm" else ""
