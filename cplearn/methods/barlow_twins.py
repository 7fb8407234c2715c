"""Barlow Twins (Zbontar et al., "Self-Supervised Learning via Redundancy Reduction", ICML 2021).

Over a batch, each dimension of one view's embedding must correlate with the same dimension of the other view and with
no other dimension. With C the cross-correlation of the two views (Eq. 1):

    loss = Σ_i (1 - C_ii)² + λ Σ_i Σ_{j≠i} C_ij²
"""

import itertools

import torch
from torch import Tensor

from cplearn.config.base import MethodSettings, Whole, setting
from cplearn.methods import base, parts

_EPS = 1e-5  # of the BatchNorm without gains that standardises embeddings in the authors' code


class Settings(MethodSettings):
    name: str = setting("barlow_twins", "Barlow Twins.")
    hidden_dim: Whole = setting(256, "Width of the projector's two hidden layers (CIFAR: 2048).", ge=1)
    embedding_dim: Whole = setting(128, "Dimensions of the embedding (CIFAR: 2048).", ge=2)
    off_diagonal: float = setting(
        0.05, "Weight λ of the off-diagonal correlations (of 2048 or more dimensions: 0.0051).", gt=0
    )
    scale: float = setting(
        0.1, "Factor of the whole loss (CIFAR: 0.1); matters with LARS or SGD, hardly with Adam.", gt=0
    )


def redundancy(z: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_i (1 - C_ii)² and Σ_i Σ_{j≠i} C_ij² of embeddings (V, n, d), means over the pairs of views."""
    diagonal, off_diagonal = [], []
    standardised = [(view - view.mean(0)) / (view.var(0, correction=0) + _EPS).sqrt() for view in z]
    for a, b in itertools.combinations(standardised, 2):
        c = a.T @ b / len(a)
        diagonal.append((1 - c.diagonal()).square().sum())
        off_diagonal.append((c - c.diagonal().diag()).square().sum())
    return torch.stack(diagonal).mean(), torch.stack(off_diagonal).mean()


class Method(base.Method[Settings]):
    """A projector of three linear maps; the codes are the dimensions of the embedding, by arg-max."""

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        super().__init__(settings, settings.embedding_dim)
        self.projector = parts.MLP([inputs.features, settings.hidden_dim, settings.hidden_dim, settings.embedding_dim])

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        diagonal, off_diagonal = redundancy(parts.each_view(self.projector, batch.features))
        loss = self.settings.scale * (diagonal + self.settings.off_diagonal * off_diagonal)
        return loss, {"diagonal": diagonal, "off_diagonal": off_diagonal}
