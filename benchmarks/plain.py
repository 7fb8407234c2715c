"""CPLearn as a plain program would have it: transforms of one PIL image at a time in DataLoader workers, torch modules,
a loop over batches, each view through the network by itself. This is how solo-learn and lightly are built."""

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


class Network(nn.Module):
    """Backbone, linear map and BatchNorm, and the frozen dictionary."""

    dictionary: Tensor

    def __init__(self, trial: TrialSettings, dataset: Dataset) -> None:
        super().__init__()
        if trial.backbone.name == "resnet18":
            self.backbone: Any = resnet18(num_classes=1)
            self.backbone.conv1 = nn.Conv2d(3, 64, 3, padding=trial.backbone.stem_padding, bias=False)
            self.backbone.maxpool, self.backbone.fc, features = nn.Identity(), nn.Identity(), 512
        else:
            generator = torch.Generator().manual_seed(0)
            self.backbone = backbones.build(trial.backbone, dataset.channels, dataset.image_size, generator)
            features = self.backbone.features
        how: Any = trial.method
        self.projector = nn.Sequential(nn.Linear(features, how.embedding_dim), nn.BatchNorm1d(how.embedding_dim))
        signs = torch.randint(0, 2, (how.embedding_dim, how.codes), generator=torch.Generator().manual_seed(0))
        self.register_buffer("dictionary", signs * 2.0 - 1)

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(self.projector(self.backbone(images)))


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
    """A training of the trial's settings; `epoch` makes a pass over the images."""

    def __init__(self, trial: TrialSettings, dataset: Dataset, precision: torch.dtype = torch.float32) -> None:
        self.trial, self.precision = trial, precision
        self.network = Network(trial, dataset).to(memory_format=torch.channels_last).train()
        parameters = self.network.parameters()
        self.optimizer = torch.optim.Adam(parameters, trial.optimizer.lr, weight_decay=trial.optimizer.weight_decay)
        pairs = Pairs(dataset, transforms(dataset, trial.augment.recipe))
        self.batches = DataLoader(pairs, trial.batch_size, shuffle=True, drop_last=True, num_workers=WORKERS)

    def epoch(self) -> float:
        """The mean loss."""
        how: Any = self.trial.method
        total = 0.0
        for views in self.batches:
            with torch.autocast("cpu", self.precision, enabled=self.precision != torch.float32):
                inputs = (view.contiguous(memory_format=torch.channels_last) for view in views)
                first, second = (self.network(images).float() for images in inputs)
            value = loss(first, second, self.network.dictionary, how.beta)
            self.optimizer.zero_grad()
            value.backward()
            self.optimizer.step()
            total += value.item()
        return total / len(self.batches)
