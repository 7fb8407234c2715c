"""SimCLR (Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020).

Among all other views of a batch, a view must recognise the one of its own image.
"""

from __future__ import annotations

import itertools
import math
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
    name: str = Field("simclr", description="SimCLR.")
    hidden_dim: config.Whole = Field(256, ge=1, description="Width of the projector's hidden layer (published: 2048).")
    embedding_dim: config.Whole = Field(128, ge=2, description="Dimensions of the embedding (published: 128).")
    temperature: Annotated[float, config.PerMember()] = Field(
        0.5, gt=0, description="Temperature of the similarities (published: 0.5 on CIFAR-10, 0.1 on ImageNet)."
    )


def nt_xent(z: Tensor, temperature: Tensor) -> Tensor:
    """Normalised temperature-scaled cross-entropy (Eq. 1) of embeddings (K, V, n, d), which it normalises; (K,).

    The mean over every view of every image as anchor, and over the other views of the image as its positive; in the
    denominator stand all views of the batch but the anchor.
    """
    views, n = z.shape[1:3]
    z = F.normalize(z, dim=-1).flatten(1, 2)
    logits = torch.bmm(z, z.transpose(1, 2)) / temperature[:, None, None]
    itself = torch.eye(views * n, dtype=torch.bool, device=z.device)
    log_p = F.log_softmax(logits.masked_fill(itself, -math.inf), dim=-1)
    # (K, V, V, n): anchor's view, positive's view, image.
    positives = log_p.unflatten(2, (views, n)).unflatten(1, (views, n)).diagonal(dim1=2, dim2=4)
    each = [-positives[:, a, b].mean(-1) for a, b in itertools.permutations(range(views), 2)]
    return torch.stack(each).mean(0)


class Method(base.Method):
    """A projector of two linear maps; the codes are the dimensions of the embedding, by arg-max (our reading)."""

    temperature: Tensor

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
        self.projector = heads.MLP(len(settings), [features, first.hidden_dim, first.embedding_dim])
        self.member_scalars("temperature", [s.temperature for s in settings])

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return nt_xent(heads.each_view(self.projector, batch.features), self.temperature), {}

    def embed(self, features: Tensor) -> Tensor:
        """On the unit sphere, where the loss compares embeddings."""
        return F.normalize(self.projector(features), dim=-1)

    def codes(self, embeddings: Tensor) -> Tensor:
        """The largest dimension; our reading, as for Barlow Twins."""
        return embeddings.argmax(-1)
