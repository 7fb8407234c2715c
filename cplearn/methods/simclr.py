"""SimCLR (Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020).

Among all other views of a batch, a view must recognise the one of its own image. With cosine similarities s and a
temperature τ, the loss of the anchor a and its positive b is (Eq. 1)

    -log( exp(s_ab / τ) / Σ_{k≠a} exp(s_ak / τ) )
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cplearn.config.base import MethodSettings, Whole, setting
from cplearn.methods import base, parts


class Settings(MethodSettings):
    name: str = setting("simclr", "SimCLR.")
    hidden_dim: Whole = setting(256, "Width of the projector's hidden layer (published: 2048).", ge=1)
    embedding_dim: Whole = setting(128, "Dimensions of the embedding (published: 128).", ge=2)
    temperature: float = setting(
        0.5, "Temperature of the similarities (published: 0.5 on CIFAR-10, 0.1 on ImageNet).", gt=0
    )


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross-entropy (Eq. 1) of embeddings (V, n, d), which it normalises.

    The mean over every view of every image as anchor, and over the other views of the image as its positive; in the
    denominator stand all views of the batch but the anchor.
    """
    views, n, _ = z.shape
    z = F.normalize(z, dim=-1).flatten(0, 1)
    anchor = torch.eye(views * n, dtype=torch.bool, device=z.device)
    log_p = F.log_softmax((z @ z.T / temperature).masked_fill(anchor, -math.inf), dim=-1)
    # (V, V, n): the anchor's view, the positive's view, the image of both.
    positives = log_p.view(views, n, views, n).diagonal(dim1=1, dim2=3)
    return -torch.stack([positives[a, b].mean() for a, b in itertools.permutations(range(views), 2)]).mean()


class Method(base.Method[Settings]):
    """A projector of two linear maps; the codes are the dimensions of the embedding, by arg-max."""

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        super().__init__(settings, settings.embedding_dim)
        self.projector = parts.MLP([inputs.features, settings.hidden_dim, settings.embedding_dim])

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return nt_xent(parts.each_view(self.projector, batch.features), self.settings.temperature), {}

    def embed(self, features: Tensor) -> Tensor:
        return F.normalize(self.projector(features), dim=-1)
