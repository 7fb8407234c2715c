"""What every method offers: a loss for training, and embeddings and codes for evaluation, of K members at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

GLOBAL_VIEWS = 2
"""Views of an image before the local crops; every recipe of `cplearn.augment` makes two."""


@dataclass(frozen=True)
class Progress:
    """Where training stands: `step` updates of all epochs have been made. Numbers of the host, for schedules."""

    step: int
    steps_per_epoch: int
    epochs: int

    @property
    def epoch(self) -> int:
        """The running epoch, counted from 0."""
        return self.step // self.steps_per_epoch

    @property
    def fraction(self) -> float:
        """The part of all updates that has been made, in [0, 1)."""
        return self.step / (self.steps_per_epoch * self.epochs)


@dataclass(frozen=True)
class Batch:
    """What a method sees of one step.

    `features` (K, V, n, F) of the trained backbone carry gradients: the global views first, then the local crops.
    `labels` (K, n) int64, -1 where unknown, are for `supervised` methods; no other may look at them. `teacher`
    (K, G, n, F) are the features that the moving average of the backbone gives the global views, without gradient;
    None where the method asks for no teacher.
    """

    features: Tensor
    labels: Tensor
    progress: Progress
    teacher: Tensor | None = None


class Method(nn.Module, ABC):
    """A projector and a loss on top of K backbones.

    Subclasses are built as `Method(settings, features, batch_size, generators, classes)`: one settings object and one
    CPU generator a member (for frozen random parts; the trainer draws the weights), backbone features F, images a step,
    classes of the data set.

    A step calls `forward`, then the backward pass, `before_update`, the optimiser, `after_update`. The number of images
    is that of the batch, not that of the settings: several devices may have gathered their features.
    """

    n_codes: int = 0

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses (K,) and named scalars to log, each (K,)."""

    @abstractmethod
    def embed(self, features: Tensor) -> Tensor | None:
        """features: (K, n, F). The embeddings (K, n, f), or None if the method has no projector."""

    def codes(self, embeddings: Tensor) -> Tensor | None:
        """embeddings: (K, n, f). The index of each image's code (K, n), or None if the method has no codes."""
        return None

    def after_initialisation(self) -> None:
        """Called once, when the initial weights have been drawn: to normalise or copy some of them."""

    def momentum(self, progress: Progress) -> Tensor | None:
        """The rate m (K,) of the teacher, t <- m t + (1 - m) s after every update; None: there is no teacher.

        The trainer keeps the teacher of the backbone; one of the method's own head is followed up in `after_update`.
        """
        return None

    def before_update(self, progress: Progress) -> None:
        """Called when the gradients are there: to change some of them, those of frozen parameters for instance."""

    def after_update(self, progress: Progress) -> None:
        """Called when the optimiser has changed the weights: to normalise them, or to let averages follow."""

    def member_scalars(self, name: str, values: list[float]) -> None:
        """Keep one number a member as a buffer of shape (K,); it follows the model's device and precision."""
        self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)
