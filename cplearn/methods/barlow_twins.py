"""Barlow Twins (Zbontar et al., "Self-Supervised Learning via Redundancy Reduction", ICML 2021).

Over a batch, each dimension of one view's embedding must correlate with the same dimension of the other view and with
no other dimension.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from cplearn.config import base as config
from cplearn.methods import base
from cplearn.methods.parts import heads

_EPS = 1e-5  # of the BatchNorm without gains that standardises embeddings in the authors' code


class Settings(config.MethodSettings):
    name: str = Field("barlow_twins", description="Barlow Twins.")
    hidden_dim: config.Whole = Field(256, ge=1, description="Width of the projector's two hidden layers (CIFAR: 2048).")
    embedding_dim: config.Whole = Field(128, ge=2, description="Dimensions of the embedding (CIFAR: 2048).")
    off_diagonal: Annotated[float, config.PerMember()] = Field(
        0.05, gt=0, description="Weight λ of the off-diagonal correlations (of 2048 or more dimensions: 0.0051)."
    )
    scale: Annotated[float, config.PerMember()] = Field(
        0.1, gt=0, description="Factor of the whole loss (CIFAR: 0.1); matters with LARS or SGD, hardly with Adam."
    )


def cross_correlation(a: Tensor, b: Tensor) -> Tensor:
    """C_ij of dimension i of one view with dimension j of the other over the batch; (K, n, d) twice to (K, d, d)."""
    a, b = ((z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, unbiased=False) + _EPS).sqrt() for z in (a, b))
    return torch.bmm(a.transpose(1, 2), b) / a.shape[1]


def losses(z: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_i (1 - C_ii)^2 and Σ_i Σ_{j≠i} C_ij^2 of embeddings (K, V, n, d), means over the pairs of views; each (K,)."""
    diagonal, rest = [], []
    for a, b in itertools.combinations(z.unbind(1), 2):
        c = cross_correlation(a, b)
        own = c.diagonal(dim1=1, dim2=2)
        diagonal.append((1 - own).square().sum(1))
        rest.append((c - torch.diag_embed(own)).square().sum((1, 2)))
    return torch.stack(diagonal).mean(0), torch.stack(rest).mean(0)


class Method(base.Method):
    """A projector of three linear maps; the codes are the dimensions of the embedding, by arg-max (our reading)."""

    off_diagonal: Tensor
    scale: Tensor

    def __init__(
        self,
        settings: Sequence[Settings],
        features: int,
        batch_size: int,
        generators: Sequence[torch.Generator],
        classes: int,
    ) -> None:
        super().__init__()
        first = settings[0]
        self.n_codes = first.embedding_dim
        widths = [features, first.hidden_dim, first.hidden_dim, first.embedding_dim]
        self.projector = heads.MLP(len(settings), widths)
        self.member_scalars("off_diagonal", [s.off_diagonal for s in settings])
        self.member_scalars("scale", [s.scale for s in settings])

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        diagonal, rest = losses(heads.each_view(self.projector, batch.features))
        return self.scale * (diagonal + self.off_diagonal * rest), {"diagonal": diagonal, "off_diagonal": rest}

    def embed(self, features: Tensor) -> Tensor:
        return self.projector(features)

    def codes(self, embeddings: Tensor) -> Tensor:
        """The largest dimension. The paper reports an NMI for Barlow Twins without saying how; this is our reading."""
        return embeddings.argmax(-1)
