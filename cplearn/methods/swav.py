"""SwAV (Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020).

The batch is assigned to prototypes in equal shares (Sinkhorn-Knopp), and each view b must predict the assignment q^a of
another view a. With s the cosines of embeddings and prototypes (Eq. 2):

    loss = -(1/n) Σ_i Σ_j q^a_ij log softmax(s^b / τ)_ij
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cplearn.config.base import MethodSettings, Whole, setting
from cplearn.dictionary.terms import perplexity
from cplearn.methods import base, parts


class Settings(MethodSettings):
    multi_crop = True

    name: str = setting("swav", "SwAV.")
    hidden_dim: Whole = setting(256, "Width of the projector's hidden layer (published: 2048).", ge=1)
    embedding_dim: Whole = setting(128, "Dimensions of the embedding (published: 128).", ge=2)
    codes: Whole = setting(100, "Number of prototypes (published: 3000).", ge=2)
    temperature: float = setting(0.1, "Temperature of the predictions (published: 0.1).", gt=0)
    epsilon: float = setting(0.05, "Entropy of the assignments (published: 0.05); smaller is sharper.", gt=0)
    iterations: Whole = setting(3, "Sinkhorn-Knopp iterations (published: 3).", ge=1)
    queue: Whole = setting(0, "Embeddings of earlier batches that are assigned with each batch (CIFAR: 3840).", ge=0)
    queue_from_epoch: Whole = setting(
        0, "First epoch that uses the queue once it is full, counted from 0 (CIFAR: 50).", ge=0
    )
    freeze_epochs: Whole = setting(1, "First epochs in which the prototypes stay as drawn (CIFAR: 2).", ge=0)


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft assignments (n, c) of n images to c prototypes that are as close to `scores` (n, c) as balance permits.

    `epsilon` is the weight of the entropy. As in Eq. 3-5 (Cuturi 2013) each iteration gives all prototypes equal mass,
    then all images; so every row sums to exactly 1, and every column to n / c as far as the iterations have converged.
    Computed with logarithms, which cannot overflow.

    >>> sinkhorn(torch.tensor([[9.0, 0.0], [8.0, 0.0]]), epsilon=0.01, iterations=100).argmax(1).tolist()
    [0, 1]
    """
    log_q = scores / epsilon
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(0, keepdim=True)
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
    return log_q.exp()


class Method(base.Method[Settings]):
    """A projector onto the unit sphere and prototypes on it; the codes are the prototypes."""

    queue: Tensor | None

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        super().__init__(settings, settings.codes)
        self.projector = parts.MLP([inputs.features, settings.hidden_dim, settings.embedding_dim])
        self.prototypes = nn.Linear(settings.embedding_dim, settings.codes, bias=False)
        queue = torch.zeros(base.GLOBAL_VIEWS, settings.queue, settings.embedding_dim)
        self.register_buffer("queue", queue if settings.queue else None)

    @torch.no_grad()
    def after_initialisation(self) -> None:
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        z = parts.each_view(self.embed, batch.features)
        log_p = F.log_softmax(self.prototypes(z) / self.settings.temperature, dim=-1)
        assignments = self._assign(z[: base.GLOBAL_VIEWS].detach(), batch.progress)
        return parts.cross_entropy(log_p, assignments), {"batch_perplexity": perplexity(log_p.detach())}

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
        return torch.stack([sinkhorn(view, epsilon, iterations)[:n] for view in self.prototypes(joined)])

    def before_update(self, progress: base.Progress) -> None:
        if progress.epoch < self.settings.freeze_epochs:
            self.prototypes.weight.grad = None

    def after_update(self, progress: base.Progress) -> None:
        if progress.epoch >= self.settings.freeze_epochs:
            self.after_initialisation()

    def embed(self, features: Tensor) -> Tensor:
        return F.normalize(self.projector(features), dim=-1)

    def codes(self, embeddings: Tensor) -> Tensor:
        return self.prototypes(embeddings).argmax(dim=-1)
