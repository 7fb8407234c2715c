"""GEDI without generation (Sansone and Manhaeve, "GEDI: GEnerative and DIscriminative Training", 2022).

The two discriminative terms of GEDI as the authors of CPLearn use them for comparison: the views of an image must agree
on a cluster, and over a batch no cluster may be left unused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cplearn.config import base as config
from cplearn.dictionary import codes
from cplearn.methods import base
from cplearn.methods.parts import heads


class Settings(config.MethodSettings):
    name: str = Field("gedi", description="GEDI without generation.")
    hidden_dim: config.Whole = Field(256, ge=1, description="Width of the projector's hidden layer (CIFAR: 2048).")
    codes: config.Whole = Field(128, ge=2, description="Outputs of the projector, one a cluster (CIFAR: 2048).")
    beta: Annotated[float, config.PerMember()] = Field(
        50.0, gt=0, description="Weight β of the invariance term (CIFAR, temperature 0.1: 0.1)."
    )
    temperature: Annotated[float, config.PerMember()] = Field(
        1.0, gt=0, description="Temperature of the outputs (CIFAR: 0.1)."
    )
    symmetric: bool = Field(
        True, description="Mean over both orders of the views; false: the authors' code, where view 1 predicts view 2."
    )


def losses(logits: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Invariance -(1/n) Σ_i Σ_j p'_ij log p_ij and uniformity -Σ_j log p̄_j of logits (K, V, n, c); each (K,).

    p̄ is the mean of p over the batch. Not symmetric: p is the first view and p' the second.
    """
    log_p = F.log_softmax(logits, dim=-1)
    uniformity = -codes.log_usage(log_p).sum(-1)
    if symmetric:
        return codes.invariance(log_p), uniformity.mean(1)
    return codes.cross_entropy(log_p[:, 1], log_p[:, 0]), uniformity[:, 0]


class Method(base.Method):
    """A projector whose outputs are logits of clusters; the embedding is its hidden layer, as in the authors' code."""

    beta: Tensor
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
        first, members = settings[0], len(settings)
        self.n_codes, self.symmetric = first.codes, first.symmetric
        self.projector = heads.MLP(members, [features, first.hidden_dim, first.codes])
        self.member_scalars("beta", [s.beta for s in settings])
        self.member_scalars("temperature", [s.temperature for s in settings])

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits = heads.each_view(self.projector, batch.features) / self.temperature[:, None, None, None]
        invariance, uniformity = losses(logits, self.symmetric)
        terms = {
            "invariance": invariance,
            "uniformity": uniformity,
            "batch_perplexity": codes.perplexity(F.log_softmax(logits.detach(), dim=-1)),
        }
        return 0.5 * (uniformity + self.beta * invariance), terms

    def embed(self, features: Tensor) -> Tensor:
        return self.projector.hidden(features)

    def codes(self, embeddings: Tensor) -> Tensor:
        """The most likely cluster."""
        return self.projector.last(embeddings).argmax(-1)
