"""BYOL (Grill et al., "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning", NeurIPS 2020).

From one view of an image a predictor q on top of the projection z guesses the projection z' that a moving average of
the network, the teacher, has of the other view. Nothing in the loss forbids collapse: that it does not happen is due to
the predictor, the stop-gradient and the slow teacher. In both orders of the views a, b (Eq. 2 and its symmetric):

    loss = |q(z_a)/|q(z_a)| - z'_b/|z'_b||² + |q(z_b)/|q(z_b)| - z'_a/|z'_a||²
"""

import torch
from torch import Tensor

from cplearn.config.base import MethodSettings, Whole, setting
from cplearn.methods import base, parts


class Settings(MethodSettings):
    name: str = setting("byol", "BYOL.")
    hidden_dim: Whole = setting(256, "Width of the hidden layers of projector and predictor (published: 4096).", ge=1)
    embedding_dim: Whole = setting(128, "Dimensions of the projection (published: 256).", ge=2)
    momentum: float = setting(
        0.99, "First rate of the teacher; a cosine takes it to 1 (ImageNet: 0.996, CIFAR: 0.99).", ge=0, le=1
    )


def distance(predictions: Tensor, targets: Tensor) -> Tensor:
    """Twice the mean over pairs of different views of (1/n) Σ_i |p̂_i - t̂_i|², on the unit sphere.

    predictions: (V, n, d), the G global views first; targets: (G, n, d). Of two views the sum of both orders, as
    published.
    """
    return 2 * (2 - 2 * parts.cosine(predictions, targets))


class Method(base.Method[Settings]):
    """Projector and predictor, and the projector's moving average.

    Evaluated is the student, as published; the codes are the dimensions of its projection, by arg-max.
    """

    evaluates_teacher = False

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        super().__init__(settings, settings.embedding_dim)
        widths = [inputs.features, settings.hidden_dim, settings.embedding_dim]
        self.projector = parts.MLP(widths)
        self.predictor = parts.MLP([settings.embedding_dim, settings.hidden_dim, settings.embedding_dim])
        self.teacher = parts.MLP(widths).requires_grad_(False)

    def after_initialisation(self) -> None:
        self.teacher.load_state_dict(self.projector.state_dict())

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        assert batch.teacher is not None
        predictions = parts.each_view(lambda view: self.predictor(self.projector(view)), batch.features)
        with torch.no_grad():
            targets = parts.each_view(self.teacher, batch.teacher)
        return distance(predictions, targets), {}

    def momentum(self, progress: base.Progress) -> float:
        return parts.rising(self.settings.momentum, progress)

    def after_update(self, progress: base.Progress) -> None:
        parts.follow(self.teacher, self.projector, self.momentum(progress))
