"""The upper bound: a classifier trained with labels, on the same backbone, views and steps as the other methods."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from cplearn import stacked
from cplearn.config import base as config
from cplearn.methods import base


class Settings(config.MethodSettings):
    supervised = True

    name: str = Field("supervised", description="Classification with labels, the upper bound of the other methods.")


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over views and labelled images of -log p(label); (K, V, n, c) and (K, n) to (K,).

    Images with label -1 do not count; a batch without any label has loss 0.
    """
    known = labels >= 0
    log_p = logits.log_softmax(-1).mean(1)
    own = log_p.gather(-1, labels.clamp_min(0)[..., None]).squeeze(-1)
    return -(own * known).sum(-1) / known.sum(-1).clamp_min(1)


class Method(base.Method):
    """A linear classifier on the features. Its logits stand for an embedding, its classes for codes."""

    def __init__(
        self,
        settings: Sequence[Settings],
        features: int,
        batch_size: int,
        generators: Sequence[torch.Generator],
        classes: int,
    ) -> None:
        super().__init__()
        self.n_codes = classes
        self.classifier = stacked.Linear(len(settings), features, classes, bias=True)

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self.classifier(batch.features.flatten(1, 2)).unflatten(1, batch.features.shape[1:3])
        loss = cross_entropy(logits, batch.labels)
        predicted = logits.detach().argmax(-1) == batch.labels[:, None]
        return loss, {"accuracy": predicted.to(loss.dtype).mean((1, 2))}

    def embed(self, features: Tensor) -> Tensor:
        return self.classifier(features)

    def codes(self, embeddings: Tensor) -> Tensor:
        """The predicted class."""
        return embeddings.argmax(-1)
