"""A stack of K trained (or trainable) models, and the way to disk and back of one of them."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cplearn import backbones, methods, stacked, streams
from cplearn.config.trial import TrialSettings
from cplearn.data.image_files import ImageFiles
from cplearn.errors import InputError
from cplearn.methods.base import Progress

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.pt"


class Model(nn.Module):
    """Backbone and method of K members that differ in numbers only.

    `images` describes the data the model was made for: channels, image_size, mean and std (a number, or a list with one
    for each channel), and classes. `teacher` is the moving average of the backbone where the method asks for one, else
    None; it takes no gradient.
    """

    teacher: nn.Module | None

    def __init__(self, trials: Sequence[TrialSettings], images: dict[str, Any]) -> None:
        super().__init__()
        self.trials, self.images = list(trials), images
        first = trials[0]
        seeds = [streams.stream(trial) for trial in trials]
        init = [streams.generator(seed, "init") for seed in seeds]
        self.backbone = backbones.build(first.backbone, len(trials), images["channels"], images["image_size"], init)
        self.method = methods.get(first.method.name).Method(
            [trial.method for trial in trials],
            self.backbone.features,
            first.batch_size,
            [streams.generator(seed, "dictionary") for seed in seeds],
            len(images["classes"]),
        )
        stacked.initialise(self, init)
        self.method.after_initialisation()
        has_teacher = self.method.momentum(Progress(0, 1, max(1, first.epochs))) is not None
        self.teacher = copy.deepcopy(self.backbone).requires_grad_(False) if has_teacher else None
        # Drawn in float32 whatever the precision, so that float64 verifies the very model that float32 trains.
        self.to(torch.float64 if first.precision == "float64" else torch.float32)

    @property
    def members(self) -> int:
        return len(self.trials)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.trials[0].precision == "float64" else torch.float32

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 or [0, 1] float images (N, C, H, W) for the backbone: normalised, in the model's precision."""
        scaled = images.to(self.dtype) / 255 if images.dtype == torch.uint8 else images.to(self.dtype)
        mean, std = (_per_channel(self.images[key], scaled) for key in ("mean", "std"))
        return (scaled - mean).div_(std).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def features(self, images: Tensor | ImageFiles, batch_size: int = 512) -> Tensor:
        """Backbone features (K, N, F) of images (N, C, H, W), uint8 or float in [0, 1], in evaluation mode.

        Where there is a teacher they are the teacher's, which is the better of the two (Caron et al. 2021). Images in
        files are decoded batch by batch. `batch_size` counts an image once for each member, so that the memory of a
        batch does not grow with the pack.
        """
        training = self.training
        self.eval()
        device = next((p.device for p in self.parameters()), images.device)
        backbone = self.backbone if self.teacher is None else self.teacher
        blocks = [
            backbone(self.prepare(block.to(device))) for block in images.split(max(1, batch_size // self.members))
        ]
        self.train(training)
        return torch.cat(blocks, dim=1)

    @torch.inference_mode()
    def embeddings(self, features: Tensor) -> Tensor | None:
        """Embeddings (K, N, f) of backbone features (K, N, F) in evaluation mode; None without a projector."""
        training = self.training
        self.eval()
        embedded = self.method.embed(features)
        self.train(training)
        return embedded

    @torch.inference_mode()
    def codes(self, embeddings: Tensor) -> Tensor | None:
        """Index of each image's code (K, N) of embeddings (K, N, f); None if the method has no codes."""
        return self.method.codes(embeddings)

    def with_evaluation(self, changes: dict[str, Any]) -> Model:
        """This model, its trials changed in the settings of the evaluation alone; raises InputError for a bad one."""
        settings = [trial.canonical() for trial in self.trials]
        self.trials = [TrialSettings.read({**own, "evaluation": {**own["evaluation"], **changes}}) for own in settings]
        return self

    def member_state(self, member: int) -> dict[str, Tensor]:
        """The state dict of one member, as if it had been trained alone; on the CPU."""
        own = stacked.take_member(self.state_dict(), member, self.members)
        return {name: tensor.cpu().contiguous() for name, tensor in own.items()}

    def save_member(self, member: int, folder: Path) -> None:
        """Write one member's settings and weights into `folder`; `load_folder` reads them back."""
        folder.mkdir(parents=True, exist_ok=True)
        description = {"trial": self.trials[member].canonical(), "images": self.images}
        (folder / CONFIG_FILE).write_text(json.dumps(description, indent=2) + "\n")
        torch.save(self.member_state(member), folder / WEIGHTS_FILE)


def _per_channel(numbers: float | list[float], images: Tensor) -> float | Tensor:
    """One number for all channels of images (N, K*C, H, W), or C numbers that every member uses."""
    if isinstance(numbers, list):
        return images.new_tensor(numbers).repeat(images.shape[1] // len(numbers)).view(-1, 1, 1)
    return numbers


def load_folder(folder: Path) -> Model:
    """The model (of one member, in evaluation mode) that `Model.save_member` wrote there, or to `model` in there.

    Raises InputError if the folder holds no model or a damaged one. Weights are read as plain tensors, never as code.
    """
    if not (folder / CONFIG_FILE).exists() and (folder / "model").is_dir():
        folder /= "model"
    config, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if not config.is_file() or not weights.is_file():
        raise InputError(f"{folder}: no model here; expected {CONFIG_FILE} and {WEIGHTS_FILE}")
    try:
        description = json.loads(config.read_text())
        model = Model([TrialSettings.read(description["trial"])], description["images"])
        model.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{folder}: the model cannot be read ({error}); it may be damaged") from error
    return model.eval()
