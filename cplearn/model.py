"""A trained (or trainable) model, and its way to disk and back."""

import copy
import functools
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cplearn import backbones, methods, streams
from cplearn.config.trial import TrialSettings
from cplearn.data.image_files import ImageFiles
from cplearn.errors import InputError
from cplearn.methods.base import MethodInputs, Progress

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "weights.pt"

LAYOUT = 2  # Version of the names and shapes of saved weights; models of another one are refused.


class Model(nn.Module):
    """The backbone and the method of one trial.

    `images` describes the data the model was made for: channels, image_size, mean and std (a number, or a list with one
    for each channel), and classes. `teacher` is the moving average of the backbone where the method asks for one.
    """

    teacher: nn.Module | None

    def __init__(self, trial: TrialSettings, images: dict[str, Any]) -> None:
        super().__init__()
        self.trial, self.images = trial, images
        stream = streams.stream(trial)
        init = streams.generator(stream, "init")
        # Layers of torch draw their first weights from the global generator, which is left as it was.
        with torch.random.fork_rng(devices=[]):
            self.backbone = backbones.build(trial.backbone, images["channels"], images["image_size"], init)
            inputs = MethodInputs(
                features=self.backbone.features,
                batch_size=trial.batch_size,
                classes=len(images["classes"]),
                generator=streams.generator(stream, "dictionary"),
                step_generator=functools.partial(streams.generator, stream, "method"),
            )
            self.method = methods.get(trial.method.name).Method(trial.method, inputs)
        backbones.initialise(self.method, init)
        self.method.after_initialisation()
        has_teacher = self.method.momentum(Progress(0, 1, max(1, trial.epochs))) is not None
        self.teacher = copy.deepcopy(self.backbone).requires_grad_(False) if has_teacher else None
        # Drawn in float32 whatever the precision, so that float64 verifies the very model that float32 trains.
        self.to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.trial.precision == "float64" else torch.float32

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @property
    def evaluated(self) -> nn.Module:
        """The teacher where there is one, which is the better of the two backbones (Caron et al. 2021), unless the
        method says otherwise."""
        return self.teacher if self.teacher is not None and self.method.evaluates_teacher else self.backbone

    def prepare(self, images: Tensor) -> Tensor:
        """uint8 or [0, 1] float images (N, C, H, W) for the backbone: normalised, in the model's precision."""
        scaled = images.to(self.dtype) / 255 if images.dtype == torch.uint8 else images.to(self.dtype)
        numbers = (self.images[key] for key in ("mean", "std"))
        mean, std = (scaled.new_tensor(n).view(-1, 1, 1) if isinstance(n, list) else n for n in numbers)
        return (scaled - mean).div_(std).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def features(self, images: Tensor | ImageFiles, batch_size: int = 512) -> Tensor:
        """Features (N, F) of the `evaluated` backbone, in evaluation mode, of images (N, C, H, W), uint8 or float in
        [0, 1]. Images in files are decoded batch by batch."""
        training = self.training
        self.eval()
        blocks = [self.evaluated(self.prepare(block.to(self.device))) for block in images.split(batch_size)]
        self.train(training)
        return torch.cat(blocks)

    @torch.inference_mode()
    def embeddings(self, features: Tensor) -> Tensor | None:
        """Embeddings (n, f) of backbone features (n, F) in evaluation mode; None without a projector."""
        training = self.training
        self.eval()
        embedded = self.method.embed(features)
        self.train(training)
        return embedded

    @torch.inference_mode()
    def codes(self, embeddings: Tensor) -> Tensor:
        """Index of each image's code (n,) of embeddings (n, f)."""
        return self.method.codes(embeddings)

    def with_evaluation(self, changes: dict[str, Any]) -> "Model":
        """This model, its trial changed in the settings of the evaluation alone; raises InputError for a bad one."""
        settings = self.trial.canonical()
        self.trial = TrialSettings.read({**settings, "evaluation": {**settings["evaluation"], **changes}})
        return self

    def save(self, folder: Path) -> None:
        """Write settings and weights into `folder`; `load_folder` reads them back."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()}
        torch.save(weights, folder / WEIGHTS_FILE)
        with open(folder / WEIGHTS_FILE, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        about = {"layout": LAYOUT, "sha256": digest, "trial": self.trial.canonical(), "images": self.images}
        (folder / CONFIG_FILE).write_text(json.dumps(about, indent=2) + "\n")


def load_folder(folder: Path) -> Model:
    """The model (in evaluation mode) that `Model.save` wrote there, or to `model` in there.

    Raises InputError if the folder holds no model, or one that is damaged or of an older version. Weights are read as
    plain tensors, never as code.
    """
    if not (folder / CONFIG_FILE).exists() and (folder / "model").is_dir():
        folder /= "model"
    config, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if not config.is_file() or not weights.is_file():
        raise InputError(f"{folder}: no model here; expected {CONFIG_FILE} and {WEIGHTS_FILE}")
    try:
        description = json.loads(config.read_text())
        if description.get("layout") != LAYOUT:
            raise InputError(
                f"{folder}: this model was saved by another version of cplearn, whose weights have other names and "
                "shapes; train it again to load it"
            )
        content = weights.read_bytes()
        # Models of earlier versions have no digest.
        if "sha256" in description and hashlib.sha256(content).hexdigest() != description["sha256"]:
            raise InputError(f"{weights}: damaged, its content is not what was saved; train the model again")
        model = Model(TrialSettings.read(description["trial"]), description["images"])
        model.load_state_dict(torch.load(io.BytesIO(content), weights_only=True, map_location="cpu"))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{folder}: the model cannot be read ({error}); it may be damaged") from error
    return model.eval()
