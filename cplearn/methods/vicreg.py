"""VICReg (Bardes, Ponce, LeCun, "Variance-Invariance-Covariance Regularization", ICLR 2022).

The views of an image must have equal embeddings; over a batch every dimension must vary, and no two together.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cplearn.config import base as config
from cplearn.methods import base
from cplearn.methods.parts import heads


class Settings(config.MethodSettings):
    name: str = Field("vicreg", description="VICReg.")
    hidden_dim: config.Whole = Field(256, ge=1, description="Width of the projector's two hidden layers (CIFAR: 2048).")
    embedding_dim: config.Whole = Field(128, ge=2, description="Dimensions of the embedding (CIFAR: 2048).")
    invariance: Annotated[float, config.PerMember()] = Field(
        25.0, ge=0, description="Weight of the invariance term (published: 25)."
    )
    variance: Annotated[float, config.PerMember()] = Field(
        25.0, ge=0, description="Weight of the variance term (published: 25)."
    )
    covariance: Annotated[float, config.PerMember()] = Field(
        1.0, ge=0, description="Weight of the covariance term (published: 1)."
    )
    eps: Annotated[float, config.PerMember()] = Field(
        1e-4, gt=0, description="Added to a variance before its root is taken (published: 1e-4)."
    )


def invariance(z: Tensor) -> Tensor:
    """Mean squared difference over the pairs of views, images and dimensions; (K, V, n, d) to (K,).

    A mean over dimensions as in the authors' code, where the paper (Eq. 5) has a sum; the published weights go with it.
    """
    pairs = itertools.combinations(z.unbind(1), 2)
    return torch.stack([(a - b).square().mean((1, 2)) for a, b in pairs]).mean(0)


def variance(z: Tensor, eps: Tensor) -> Tensor:
    """Mean over views and dimensions of max(0, 1 - sqrt(Var + eps)); (K, V, n, d) and (K,) to (K,).

    The mean over views is that of the authors' code; the paper (Eq. 6) has their sum.
    """
    deviation = (z.var(2) + eps[:, None, None]).sqrt()
    return F.relu(1 - deviation).mean((1, 2))


def covariance(z: Tensor) -> Tensor:
    """Sum over two views of (1/d) Σ_{i≠j} Cov_ij^2; of more views twice the mean; (K, V, n, d) to (K,)."""
    n, d = z.shape[2:]
    centred = z - z.mean(2, keepdim=True)
    cov = centred.transpose(2, 3) @ centred / (n - 1)
    off = cov - torch.diag_embed(cov.diagonal(dim1=2, dim2=3))
    return 2 * off.square().sum((2, 3)).mean(1) / d


class Method(base.Method):
    """A projector of three linear maps; the codes are the dimensions of the embedding, by arg-max (our reading)."""

    invariance: Tensor
    variance: Tensor
    covariance: Tensor
    eps: Tensor

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
        for name in ("invariance", "variance", "covariance", "eps"):
            self.member_scalars(name, [getattr(s, name) for s in settings])

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        z = heads.each_view(self.projector, batch.features)
        agree, spread, joint = invariance(z), variance(z, self.eps), covariance(z)
        loss = self.invariance * agree + self.variance * spread + self.covariance * joint
        return loss, {"invariance": agree, "variance": spread, "covariance": joint}

    def embed(self, features: Tensor) -> Tensor:
        return self.projector(features)

    def codes(self, embeddings: Tensor) -> Tensor:
        """The largest dimension; our reading, as for Barlow Twins."""
        return embeddings.argmax(-1)
