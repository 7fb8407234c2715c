"""What every method offers: a loss for training, and embeddings and codes for evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from cplearn.config.base import MethodSettings

S = TypeVar("S", bound=MethodSettings)

GLOBAL_VIEWS = 2
"""The number of views of an image that come before the local crops; every recipe of `cplearn.augment` makes two."""


@dataclass(frozen=True)
class Progress:
    """Where training stands: `step` updates have been made since its beginning. Schedules are functions of it."""

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
class MethodInputs:
    """What a method needs to know, beside its settings, when it is built.

    `features` is the number F of features that the backbone gives an image, `batch_size` the number of images of a
    step, `classes` that of classes of the data set. `generator`, on the CPU, is for frozen random parts; the trainer
    draws the weights. What a method draws anew in update k comes from `step_generator(k)`, a new generator on the CPU:
    a resumed training then draws what the uninterrupted one would have drawn.
    """

    features: int
    batch_size: int
    classes: int
    generator: torch.Generator
    step_generator: Callable[[int], torch.Generator]


@dataclass(frozen=True)
class Batch:
    """What a method sees of one step.

    `features` (V, n, F) of the trained backbone carry gradients: the global views first, then the local crops.
    `labels` (n,) int64, -1 where unknown, are for `supervised` methods; no other may look at them. `teacher` (G, n, F)
    are the features that the moving average of the backbone gives the global views, without gradient; None where the
    method asks for no teacher.
    """

    features: Tensor
    labels: Tensor
    progress: Progress
    teacher: Tensor | None = None


class Method(nn.Module, ABC, Generic[S]):
    """A projector and a loss on top of a backbone, built as `Method(settings, inputs)` with `MethodInputs`.

    A step calls `forward`, then the backward pass, `before_update`, the optimiser, `after_update`. Evaluation calls
    `embed` and `codes`, which tells `n_codes` codes apart.
    """

    projector: nn.Module
    evaluates_teacher: bool = True  # Where there is a teacher, its backbone is evaluated; False: that of the student.

    def __init__(self, settings: S, n_codes: int) -> None:
        super().__init__()
        self.settings, self.n_codes = settings, n_codes

    @abstractmethod
    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and named terms to log; all of them scalars."""

    def embed(self, features: Tensor) -> Tensor | None:
        """The embeddings (n, f) of features (n, F), or None if the method has no projector."""
        return self.projector(features)

    def codes(self, embeddings: Tensor) -> Tensor:
        """The index (n,) of the code of each embedding (n, f).

        Without codes of its own a method has a code for each dimension, by arg-max. This is our reading: papers report
        an NMI for VICReg, Barlow Twins and SimCLR without saying how.
        """
        return embeddings.argmax(dim=-1)

    def after_initialisation(self) -> None:
        """Called once, when the initial weights have been drawn: to normalise or copy some of them."""

    def momentum(self, progress: Progress) -> float | None:
        """The rate m at which the teacher t follows the student s, t <- m t + (1 - m) s; None: there is no teacher.

        The trainer keeps the teacher of the backbone. A method lets that of its own head follow in `after_update`.
        """
        return None

    def before_update(self, progress: Progress) -> None:
        """Called when the gradients are there. Set those of frozen parameters to None, and they stay as they are."""

    def after_update(self, progress: Progress) -> None:
        """Called when the optimiser has changed the weights: to normalise them, or to let averages follow."""
