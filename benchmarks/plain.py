"""Training as a plain program would have it: transforms of one PIL image at a time in DataLoader workers, a loop over
batches, each view through the network by itself. This is how solo-learn and lightly are built.

`cplearn` is CPLearn in such a loop, `lightly` Barlow Twins with head, loss and transforms of the library lightly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models import resnet18
from torchvision.transforms import v2

from benchmarks.augmentation import per_image
from cplearn import backbones
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset

Views = Sequence[Callable[[Image.Image], Tensor]]
WORKERS = 1
"""More would take the two cores from the network."""


class Pairs(torch.utils.data.Dataset[list[Tensor]]):
    """The views of each image of a data set, made when they are asked for."""

    def __init__(self, dataset: Dataset, views: Views) -> None:
        images = dataset.train.images
        assert isinstance(images, Tensor)
        pixels = images.permute(0, 2, 3, 1).squeeze(3).numpy()
        self.images, self.views = [Image.fromarray(image) for image in pixels], views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> list[Tensor]:
        return [view(self.images[row]) for view in self.views]


def transforms(dataset: Dataset, recipe: str) -> Views:
    """The views of the recipes solo-cifar and digits, by torchvision."""
    normalise = v2.Normalize([dataset.mean] * dataset.channels, [dataset.std] * dataset.channels)
    if recipe == "solo-cifar":
        return [v2.Compose([view, normalise]) for view in per_image(recipe)["torchvision v2"]]
    bilinear = v2.InterpolationMode.BILINEAR
    view = [
        v2.RandomAffine(15, (1 / 16, 1 / 16), (0.85, 1.15), 10, bilinear),
        v2.ColorJitter(brightness=(0.7, 1.3)),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.GaussianNoise(0.0, 0.075),
        normalise,
    ]
    return [v2.Compose(view)] * 2


def backbone(trial: TrialSettings, dataset: Dataset) -> tuple[Any, int]:
    """The trial's backbone and the number of its features; a ResNet-18 is torchvision's with the stem for CIFAR."""
    if trial.backbone.name != "resnet18":
        network = backbones.build(
            trial.backbone, dataset.channels, dataset.image_size, torch.Generator().manual_seed(0)
        )
        return network, network.features
    network = resnet18(num_classes=1)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=trial.backbone.stem_padding, bias=False)
    network.maxpool, network.fc = nn.Identity(), nn.Identity()
    return network, 512


class CPLearn(nn.Module):
    """Backbone, linear map with BatchNorm, the frozen dictionary, and the loss of two views."""

    dictionary: Tensor

    def __init__(self, trial: TrialSettings, dataset: Dataset) -> None:
        super().__init__()
        how: Any = trial.method
        self.backbone, features = backbone(trial, dataset)
        self.beta = how.beta
        self.projector = nn.Sequential(nn.Linear(features, how.embedding_dim), nn.BatchNorm1d(how.embedding_dim))
        signs = torch.randint(0, 2, (how.embedding_dim, how.codes), generator=torch.Generator().manual_seed(0))
        self.register_buffer("dictionary", signs * 2.0 - 1)

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(self.projector(self.backbone(images)))

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        return loss(first, second, self.dictionary, self.beta)


def loss(first: Tensor, second: Tensor, dictionary: Tensor, beta: float, epsilon: float = 1e-8) -> Tensor:
    """CPLearn's loss of the embeddings (n, f) of two views over a dictionary (f, c), symmetric, with the prior term of
    the authors' code."""
    length, codes = dictionary.shape
    temperature = length / (math.sqrt(len(first)) * math.log((1 - epsilon * (codes - 1)) / epsilon))
    log_p, log_q = (F.log_softmax(view @ dictionary / temperature, dim=-1) for view in (first, second))
    p, q = log_p.exp(), log_q.exp()
    invariance = -((p * log_q).sum(-1).mean() + (q * log_p).sum(-1).mean()) / 2
    means = (view.mean(0) for view in (p, q))
    prior = sum((mean * (mean.clamp(min=1e-30) * codes).log()).sum() for mean in means) / 2
    return beta * invariance + prior


class PlainTraining:
    """A training of the trial's settings by a network with a method `loss` of the embeddings of two views; `epoch`
    makes a pass over the images."""

    def __init__(self, network: Any, views: Views, trial: TrialSettings, dataset: Dataset) -> None:
        self.precision = getattr(torch, trial.precision)
        self.network = network.to(memory_format=torch.channels_last).train()
        parameters = self.network.parameters()
        self.optimizer = torch.optim.Adam(parameters, trial.optimizer.lr, weight_decay=trial.optimizer.weight_decay)
        pairs = Pairs(dataset, views)
        self.batches = DataLoader(pairs, trial.batch_size, shuffle=True, drop_last=True, num_workers=WORKERS)

    def epoch(self) -> float:
        """The mean loss."""
        total = 0.0
        for views in self.batches:
            with torch.autocast("cpu", self.precision, enabled=self.precision != torch.float32):
                inputs = (view.contiguous(memory_format=torch.channels_last) for view in views)
                first, second = (self.network(images).float() for images in inputs)
            value = self.network.loss(first, second)
            self.optimizer.zero_grad()
            value.backward()
            self.optimizer.step()
            total += value.item()
        return total / len(self.batches)


def cplearn(trial: TrialSettings, dataset: Dataset) -> PlainTraining:
    """CPLearn with the transforms of the trial's recipe by torchvision."""
    return PlainTraining(CPLearn(trial, dataset), transforms(dataset, trial.augment.recipe), trial, dataset)


def lightly(trial: TrialSettings, dataset: Dataset) -> PlainTraining:
    """Barlow Twins with head, loss and transforms of lightly, whose transforms are those of solo-cifar less solarising.

    Raises ImportError where lightly is not installed.
    """
    from lightly.loss import BarlowTwinsLoss
    from lightly.models.modules import BarlowTwinsProjectionHead
    from lightly.transforms import SimCLRTransform

    class BarlowTwins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            how: Any = trial.method
            self.backbone, features = backbone(trial, dataset)
            self.projector = BarlowTwinsProjectionHead(features, how.hidden_dim, how.embedding_dim)
            self.loss = BarlowTwinsLoss(how.off_diagonal)

        def forward(self, images: Tensor) -> Tensor:
            return self.projector(self.backbone(images))

    moments = {"mean": [dataset.mean] * dataset.channels, "std": [dataset.std] * dataset.channels}
    jitter = {"cj_strength": 1.0, "cj_bright": 0.4, "cj_contrast": 0.4, "cj_sat": 0.2, "cj_hue": 0.1}
    pair = SimCLRTransform(dataset.image_size, **jitter, gaussian_blur=0.0, normalize=moments)
    return PlainTraining(BarlowTwins(), pair.transforms, trial, dataset)
