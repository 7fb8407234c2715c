"""SwAV (Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020).

The batch is assigned to prototypes in equal shares (Sinkhorn-Knopp), and each view b must predict the assignment q^a of
another view a. With s the cosines of embeddings and prototypes (Eq. 2):

    loss = -(1/n) Σ_i Σ_j q^a_ij log softmax(s^b / τ)_ij
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cplearn.config.base import MethodSettings, Whole
from cplearn.dictionary.terms import perplexity
from cplearn.methods import base
from cplearn.methods.parts import heads, sinkhorn


class Settings(MethodSettings):
    multi_crop = True

    name: str = Field("swav", description="SwAV.")
    hidden_dim: Whole = Field(256, ge=1, description="Width of the projector's hidden layer (published: 2048).")
    embedding_dim: Whole = Field(128, ge=2, description="Dimensions of the embedding (published: 128).")
    codes: Whole = Field(100, ge=2, description="Number of prototypes (published: 3000).")
    temperature: float = Field(0.1, gt=0, description="Temperature of the predictions (published: 0.1).")
    epsilon: float = Field(0.05, gt=0, description="Entropy of the assignments (published: 0.05); smaller is sharper.")
    iterations: Whole = Field(3, ge=1, description="Sinkhorn-Knopp iterations (published: 3).")
    queue: Whole = Field(
        0, ge=0, description="Embeddings of earlier batches that are assigned with each batch (CIFAR: 3840)."
    )
    queue_from_epoch: Whole = Field(
        0, ge=0, description="First epoch that uses the queue once it is full, counted from 0 (CIFAR: 50)."
    )
    freeze_epochs: Whole = Field(1, ge=0, description="First epochs in which the prototypes stay as drawn (CIFAR: 2).")


def swapped_prediction(scores: Tensor, assignments: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy (Eq. 2) between the assignment of each global view and the prediction of every other view.

    scores: (V, n, c), the G global views first; assignments: (G, n, c).
    """
    log_p = F.log_softmax(scores / temperature, dim=-1)
    pairs = [(q, log_p[b]) for a, q in enumerate(assignments) for b in range(len(log_p)) if b != a]
    return -torch.stack([(q * prediction).sum(-1).mean() for q, prediction in pairs]).mean()


class Method(base.Method):
    """A projector onto the unit sphere and prototypes on it; the codes are the prototypes."""

    queue: Tensor | None

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        super().__init__()
        self.settings, self.n_codes = settings, settings.codes
        self.projector = heads.MLP([inputs.features, settings.hidden_dim, settings.embedding_dim])
        self.prototypes = nn.Linear(settings.embedding_dim, settings.codes, bias=False)
        queue = torch.zeros(base.GLOBAL_VIEWS, settings.queue, settings.embedding_dim)
        self.register_buffer("queue", queue if settings.queue else None)

    def after_initialisation(self) -> None:
        self._normalise()

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        z, tau = heads.each_view(self.embed, batch.features), self.settings.temperature
        scores = self.prototypes(z)
        assignments = self._assign(z[: base.GLOBAL_VIEWS].detach(), batch.progress)
        log_p = F.log_softmax(scores.detach() / tau, dim=-1)
        return swapped_prediction(scores, assignments, tau), {"batch_perplexity": perplexity(log_p)}

    @torch.no_grad()
    def _assign(self, z: Tensor, progress: base.Progress) -> Tensor:
        """Assignments (G, n, c) of embeddings (G, n, d), which then join the queue."""
        n, joined = z.shape[1], z
        if self.queue is not None:
            length = self.queue.shape[1]
            with_queue = torch.cat([z, self.queue], dim=1)
            self.queue.copy_(with_queue[:, :length])
            # How full the queue is follows from the number of steps, so a resumed training knows it as well.
            if progress.step * n >= length and progress.epoch >= self.settings.queue_from_epoch:
                joined = with_queue
        epsilon, iterations = self.settings.epsilon, self.settings.iterations
        return torch.stack([sinkhorn.assign(view, epsilon, iterations)[:n] for view in self.prototypes(joined)])

    def before_update(self, progress: base.Progress) -> None:
        if self._frozen(progress):
            self.prototypes.weight.grad = None

    def after_update(self, progress: base.Progress) -> None:
        if not self._frozen(progress):
            self._normalise()

    def _frozen(self, progress: base.Progress) -> bool:
        return progress.epoch < self.settings.freeze_epochs

    @torch.no_grad()
    def _normalise(self) -> None:
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))

    def embed(self, features: Tensor) -> Tensor:
        return F.normalize(self.projector(features), dim=-1)

    def codes(self, embeddings: Tensor) -> Tensor:
        """The nearest prototype."""
        return self.prototypes(embeddings).argmax(dim=-1)
