"""VICReg (Bardes, Ponce, LeCun, "Variance-Invariance-Covariance Regularization", ICLR 2022).

The views of an image must have equal embeddings (invariance). Over a batch every dimension of the embedding must vary
(variance), and no two dimensions together (covariance); else all images could have the same embedding:

    loss = 25 · mean (z_a - z_b)² + 25 · mean max(0, 1 - std z) + 1 · Σ_{i≠j} Cov_ij² / d
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from cplearn.config.base import MethodSettings, Whole, setting
from cplearn.methods import base, parts


class Settings(MethodSettings):
    name: str = setting("vicreg", "VICReg.")
    hidden_dim: Whole = setting(256, "Width of the projector's two hidden layers (CIFAR: 2048).", ge=1)
    embedding_dim: Whole = setting(128, "Dimensions of the embedding (CIFAR: 2048).", ge=2)
    invariance: float = setting(25.0, "Weight of the invariance term (published: 25).", ge=0)
    variance: float = setting(25.0, "Weight of the variance term (published: 25).", ge=0)
    covariance: float = setting(1.0, "Weight of the covariance term (published: 1).", ge=0)
    eps: float = setting(1e-4, "Added to a variance before its root is taken (published: 1e-4).", gt=0)


def invariance(z: Tensor) -> Tensor:
    """Mean squared difference over the pairs of views, images and dimensions of embeddings (V, n, d).

    A mean over dimensions as in the authors' code, where the paper (Eq. 5) has a sum; the published weights go with it.
    """
    return torch.stack([F.mse_loss(a, b) for a, b in itertools.combinations(z, 2)]).mean()


def variance(z: Tensor, eps: float) -> Tensor:
    """Mean over views and dimensions of max(0, 1 - sqrt(Var + eps)), with the variance over the images of (V, n, d).

    The mean over views is that of the authors' code; the paper (Eq. 6) has their sum.
    """
    return F.relu(1 - (z.var(dim=1) + eps).sqrt()).mean()


def covariance(z: Tensor) -> Tensor:
    """Sum over two views of (1/d) Σ_{i≠j} Cov_ij² of embeddings (V, n, d); of more views twice the mean."""
    _, n, d = z.shape
    centred = z - z.mean(dim=1, keepdim=True)
    cov = centred.mT @ centred / (n - 1)
    off_diagonal = cov - torch.diag_embed(cov.diagonal(dim1=1, dim2=2))
    return 2 * off_diagonal.square().sum((1, 2)).mean() / d


class Method(base.Method[Settings]):
    """A projector of three linear maps; the codes are the dimensions of the embedding, by arg-max."""

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        super().__init__(settings, settings.embedding_dim)
        self.projector = parts.MLP([inputs.features, settings.hidden_dim, settings.hidden_dim, settings.embedding_dim])

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        z, weights = parts.each_view(self.projector, batch.features), self.settings
        agree, vary, correlate = invariance(z), variance(z, weights.eps), covariance(z)
        loss = weights.invariance * agree + weights.variance * vary + weights.covariance * correlate
        return loss, {"invariance": agree, "variance": vary, "covariance": correlate}
