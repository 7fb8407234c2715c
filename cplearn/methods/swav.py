"""SwAV (Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020).

The batch is assigned to prototypes in equal shares, and each view must predict the assignment of another view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cplearn import stacked
from cplearn.config import base as config
from cplearn.dictionary import codes
from cplearn.methods import base
from cplearn.methods.parts import heads, sinkhorn


class Settings(config.MethodSettings):
    multi_crop = True

    name: str = Field("swav", description="SwAV.")
    hidden_dim: config.Whole = Field(256, ge=1, description="Width of the projector's hidden layer (published: 2048).")
    embedding_dim: config.Whole = Field(128, ge=2, description="Dimensions of the embedding (published: 128).")
    codes: config.Whole = Field(100, ge=2, description="Number of prototypes (published: 3000).")
    temperature: Annotated[float, config.PerMember()] = Field(
        0.1, gt=0, description="Temperature of the predictions (published: 0.1)."
    )
    epsilon: Annotated[float, config.PerMember()] = Field(
        0.05, gt=0, description="Entropy of the assignments (published: 0.05); smaller is sharper."
    )
    iterations: config.Whole = Field(3, ge=1, description="Sinkhorn-Knopp iterations (published: 3).")
    queue: config.Whole = Field(
        0, ge=0, description="Embeddings of earlier batches that are assigned with each batch (CIFAR: 3840)."
    )
    queue_from_epoch: config.Whole = Field(
        0, ge=0, description="First epoch that uses the queue once it is full, counted from 0 (CIFAR: 50)."
    )
    freeze_epochs: config.Whole = Field(
        1, ge=0, description="First epochs in which the prototypes stay as drawn (CIFAR: 2)."
    )


def swapped_prediction(scores: Tensor, assignments: Tensor, temperature: Tensor) -> Tensor:
    """Mean cross-entropy (Eq. 2) between the assignment of each global view and the prediction of every other view.

    scores: (K, V, n, c), the G global views first; assignments: (K, G, n, c); temperature: (K,). Returns (K,).
    """
    log_p = F.log_softmax(scores / temperature[:, None, None, None], dim=-1)
    each = [
        -(q * log_p[:, v]).sum(-1).mean(-1)
        for g, q in enumerate(assignments.unbind(1))
        for v in range(scores.shape[1])
        if v != g
    ]
    return torch.stack(each).mean(0)


class Method(base.Method):
    """A projector onto the unit sphere and prototypes on it; the codes are the prototypes."""

    temperature: Tensor
    epsilon: Tensor
    queue: Tensor | None

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
        self.n_codes, self.iterations = first.codes, first.iterations
        self.queue_from_epoch, self.freeze_epochs = first.queue_from_epoch, first.freeze_epochs
        self.projector = heads.MLP(members, [features, first.hidden_dim, first.embedding_dim])
        self.prototypes = stacked.Linear(members, first.embedding_dim, first.codes)
        self.member_scalars("temperature", [s.temperature for s in settings])
        self.member_scalars("epsilon", [s.epsilon for s in settings])
        shape = (members, base.GLOBAL_VIEWS, first.queue, first.embedding_dim)
        self.register_buffer("queue", torch.zeros(shape) if first.queue else None)
        self._frozen: heads.Freeze | None = None

    def after_initialisation(self) -> None:
        self._normalise()

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        z = F.normalize(heads.each_view(self.projector, batch.features), dim=-1)
        scores = heads.each_view(self.prototypes, z)
        assignments = self._assign(z[:, : base.GLOBAL_VIEWS].detach(), batch.progress)
        loss = swapped_prediction(scores, assignments, self.temperature)
        log_p = F.log_softmax(scores.detach() / self.temperature[:, None, None, None], dim=-1)
        return loss, {"batch_perplexity": codes.perplexity(log_p)}

    @torch.no_grad()
    def _assign(self, z: Tensor, progress: base.Progress) -> Tensor:
        """Assignments (K, G, n, c) of embeddings (K, G, n, d), which then join the queue."""
        n = z.shape[2]
        joined = z if self.queue is None else torch.cat([z, self.queue], dim=2)
        if self.queue is not None:
            # What the queue holds follows from the number of steps, so a resumed trial knows it too.
            full = progress.step * n >= self.queue.shape[2] and progress.epoch >= self.queue_from_epoch
            self.queue.copy_(joined[:, :, : self.queue.shape[2]])
            joined = joined if full else z
        views = [self.prototypes(view) for view in joined.unbind(1)]
        return torch.stack([sinkhorn.assign(view, self.epsilon, self.iterations)[:, :n] for view in views], dim=1)

    def before_update(self, progress: base.Progress) -> None:
        self._frozen = heads.Freeze(self.prototypes.weight) if progress.epoch < self.freeze_epochs else None

    def after_update(self, progress: base.Progress) -> None:
        if self._frozen is not None:
            self._frozen.undo()
            self._frozen = None
        else:
            self._normalise()

    @torch.no_grad()
    def _normalise(self) -> None:
        weight = self.prototypes.weight
        weight.copy_(F.normalize(weight, dim=1))

    def embed(self, features: Tensor) -> Tensor:
        return F.normalize(self.projector(features), dim=-1)

    def codes(self, embeddings: Tensor) -> Tensor:
        """The nearest prototype."""
        return self.prototypes(embeddings).argmax(-1)
