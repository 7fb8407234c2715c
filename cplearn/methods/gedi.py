"""GEDI without generation (Sansone and Manhaeve, "GEDI: GEnerative and DIscriminative Training", 2022).

The two discriminative terms of GEDI as the authors of CPLearn use them for comparison: the views of an image must agree
on a cluster, and over a batch no cluster may be left unused. With p and p' the assignments of two views and p̄ the mean
of p over the batch:

    loss = ½ ( -Σ_j log p̄_j - β (1/n) Σ_i Σ_j p'_ij log p_ij )
"""

import torch.nn.functional as F
from torch import Tensor

from cplearn.config.base import MethodSettings, Whole, setting
from cplearn.dictionary import terms
from cplearn.methods import base, parts


class Settings(MethodSettings):
    name: str = setting("gedi", "GEDI without generation.")
    hidden_dim: Whole = setting(256, "Width of the projector's hidden layer (CIFAR: 2048).", ge=1)
    codes: Whole = setting(128, "Outputs of the projector, one a cluster (CIFAR: 2048).", ge=2)
    beta: float = setting(50.0, "Weight β of the invariance term (CIFAR, temperature 0.1: 0.1).", gt=0)
    temperature: float = setting(1.0, "Temperature of the outputs (CIFAR: 0.1).", gt=0)
    symmetric: bool = setting(
        True, "Mean over both orders of the views; false: the authors' code, where view 1 predicts view 2."
    )


def invariance_and_uniformity(log_p: Tensor, symmetric: bool) -> tuple[Tensor, Tensor]:
    """-(1/n) Σ_i Σ_j p'_ij log p_ij and -Σ_j log p̄_j of log-probabilities (V, n, c).

    Symmetric: means over the ordered pairs of views, and over views. Otherwise p is the first view and p' the second.
    """
    uniformity = -terms.log_usage(log_p).sum(-1)
    if symmetric:
        return terms.invariance(log_p), uniformity.mean()
    return terms.cross_entropy(log_p[1], log_p[0]), uniformity[0]


class Method(base.Method[Settings]):
    """A projector whose outputs are logits of clusters; the embedding is its hidden layer, as in the authors' code."""

    projector: parts.MLP

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        super().__init__(settings, settings.codes)
        self.projector = parts.MLP([inputs.features, settings.hidden_dim, settings.codes])

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits = parts.each_view(self.projector, batch.features)
        log_p = F.log_softmax(logits / self.settings.temperature, dim=-1)
        invariance, uniformity = invariance_and_uniformity(log_p, self.settings.symmetric)
        loss = 0.5 * (uniformity + self.settings.beta * invariance)
        perplexity = terms.perplexity(log_p.detach())
        return loss, {"invariance": invariance, "uniformity": uniformity, "batch_perplexity": perplexity}

    def embed(self, features: Tensor) -> Tensor:
        return self.projector.hidden(features)

    def codes(self, embeddings: Tensor) -> Tensor:
        return self.projector.last(embeddings).argmax(dim=-1)
