"""Self-Classifier (Amrani, Karlinsky, Bronstein, "Self-Supervised Classification Network", ECCV 2022).

The views of an image must get the same class; Bayes' rule with a uniform prior over classes and images, estimated on
the batch, keeps all images from getting one class.
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
from cplearn.dictionary import codes
from cplearn.methods import base
from cplearn.methods.parts import heads


class Settings(config.MethodSettings):
    multi_crop = True

    name: str = Field("self_classifier", description="Self-Classifier, with one classifier.")
    hidden_dim: config.Whole = Field(
        256, ge=1, description="Width of the projector's two hidden layers (published: 4096)."
    )
    embedding_dim: config.Whole = Field(128, ge=2, description="Dimensions of the embedding (published: 128).")
    codes: config.Whole = Field(100, ge=2, description="Classes of the classifier (published: 15 classifiers of 1000).")
    row_temperature: Annotated[float, config.PerMember()] = Field(
        0.1, gt=0, description="Temperature of the softmax over classes (published: 0.1)."
    )
    column_temperature: Annotated[float, config.PerMember()] = Field(
        0.05, gt=0, description="Temperature of the softmax over the images of the batch (published: 0.05)."
    )


def targets(logits: Tensor, temperature: Tensor) -> Tensor:
    """p(y|x) = p(x|y) / Σ_ỹ p(x|ỹ) with p(x|y) the softmax over the batch; (K, n, c) and (K,) to (K, n, c)."""
    return (logits / temperature[:, None, None]).log_softmax(1).softmax(2)


def log_predictions(logits: Tensor, temperature: Tensor) -> Tensor:
    """log( (n/c) p(y|x) / Σ_x̃ p(y|x̃) ) with p(y|x) the softmax over classes; (K, n, c), (K,) to (K, n, c)."""
    n, c = logits.shape[1:]
    log_p = (logits / temperature[:, None, None]).log_softmax(2)
    return log_p - log_p.logsumexp(1, keepdim=True) + math.log(n / c)


def cross_entropy(logits: Tensor, row_temperature: Tensor, column_temperature: Tensor) -> Tensor:
    """Mean over ordered pairs of views, not both local, of -(1/n) Σ_i Σ_y target log prediction.

    logits: (K, V, n, c), global views first; temperatures: (K,). Returns (K,). Gradients run through both sides. The
    authors' code adds 1e-8 inside the logarithm; here it is computed exactly.
    """
    views = logits.unbind(1)
    target = [targets(view, column_temperature) for view in views]
    predicted = [log_predictions(view, row_temperature) for view in views]
    pairs = [pair for pair in itertools.permutations(range(len(views)), 2) if min(pair) < base.GLOBAL_VIEWS]
    return torch.stack([-(target[a] * predicted[b]).sum(-1).mean(-1) for a, b in pairs]).mean(0)


class Method(base.Method):
    """A projector onto the unit sphere and a cosine classifier; the codes are its classes."""

    row_temperature: Tensor
    column_temperature: Tensor

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
        self.n_codes = first.codes
        self.projector = heads.MLP(members, [features, first.hidden_dim, first.hidden_dim, first.embedding_dim])
        self.classifier = heads.Cosine(members, first.embedding_dim, first.codes)
        self.member_scalars("row_temperature", [s.row_temperature for s in settings])
        self.member_scalars("column_temperature", [s.column_temperature for s in settings])

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        z = F.normalize(heads.each_view(self.projector, batch.features), dim=-1)
        logits = heads.each_view(self.classifier, z)
        loss = cross_entropy(logits, self.row_temperature, self.column_temperature)
        log_p = F.log_softmax(logits.detach() / self.row_temperature[:, None, None, None], dim=-1)
        return loss, {"batch_perplexity": codes.perplexity(log_p)}

    def embed(self, features: Tensor) -> Tensor:
        return F.normalize(self.projector(features), dim=-1)

    def codes(self, embeddings: Tensor) -> Tensor:
        """The most likely class."""
        return self.classifier(embeddings).argmax(-1)
