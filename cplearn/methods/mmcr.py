"""MMCR (Yerxa, Kuang, Simoncelli, Chung, "Learning Efficient Coding of Natural Images with Maximum Manifold Capacity
Representations", NeurIPS 2023, arXiv 2303.03307).

The views of image i, of length 1, are the rows of Z_i (V x d), and their mean is the row c_i of the centroids' matrix
C (n x d). Where the views of an image agree, its centroid is long; where images differ, C has many large singular
values. So the nuclear norm |C|_* (the sum of the singular values) is made large, and that of each image's views small:

    loss = -|C|_* + λ (1/n) Σ_i |Z_i|_*
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cplearn.config.base import MethodSettings, Whole, setting
from cplearn.methods import base, parts


class Settings(MethodSettings):
    name: str = setting("mmcr", "MMCR.")
    hidden_dim: Whole = setting(256, "Width of the projector's hidden layer (published: 512 on CIFAR-10).", ge=1)
    embedding_dim: Whole = setting(128, "Dimensions of the embedding (published: 128 on CIFAR-10).", ge=2)
    weight: float = setting(
        0.0, "Weight λ of the nuclear norm of each image's views (published: 0, which large |C|_* makes small).", ge=0
    )


def nuclear_norm(matrices: Tensor) -> Tensor:
    """Sum of the singular values of (..., n, d), finite where all numbers are, else NaN; (...)."""
    # The library raises an error for numbers that are not finite; a loss shall be NaN there.
    finite = torch.nan_to_num(matrices, nan=0.0, posinf=0.0, neginf=0.0)
    return torch.linalg.svdvals(finite).sum(-1) + 0 * matrices.sum((-2, -1))


def norms(z: Tensor) -> tuple[Tensor, Tensor]:
    """|C|_* and (1/n) Σ_i |Z_i|_* of embeddings (V, n, d), which are normalised first."""
    z = F.normalize(z, dim=-1)
    return nuclear_norm(z.mean(0)), nuclear_norm(z.transpose(0, 1)).mean()


class Method(base.Method[Settings]):
    """A projector of two linear maps; the codes are the dimensions of the embedding, by arg-max."""

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        super().__init__(settings, settings.embedding_dim)
        self.projector = parts.MLP([inputs.features, settings.hidden_dim, settings.embedding_dim])

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        centroids, views = norms(parts.each_view(self.projector, batch.features))
        return self.settings.weight * views - centroids, {"centroids": centroids, "views": views}

    def embed(self, features: Tensor) -> Tensor:
        return F.normalize(self.projector(features), dim=-1)
