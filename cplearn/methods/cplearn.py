"""CPLearn (Sansone, Lebailly, Tuytelaars, "Collapse-Proof Non-Contrastive Self-Supervised Learning", ICML 2025).

A linear projector with BatchNorm and a frozen dictionary of c random signs: the softmax over codes turns an embedding
into an assignment p. The views of an image must agree on their code, and over a batch all codes must be used alike
(Eq. 7; p and p' are the assignments of two views, p̄ the mean over the batch):

    loss = -β (1/n) Σ_i Σ_j p_ij log p'_ij - (1/c) Σ_j log p̄_j
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cplearn.config.base import MethodSettings, Whole, setting
from cplearn.dictionary.loss import dictionary_loss
from cplearn.dictionary.signs import nearest, rademacher
from cplearn.errors import refuse_if
from cplearn.methods import base, parts


class Settings(MethodSettings):
    name: str = setting("cplearn", "CPLearn.")
    beta: float = setting(1.0, "Weight β of the invariance term (Eq. 7).", gt=0)
    codes: Whole = setting(2048, "Dictionary size c.", ge=2)
    embedding_dim: Whole = setting(128, "Projector width f, the length of a code.", ge=2)
    form: Literal["l2", "tanh"] = setting("l2", "Embedding: l2 as in the paper, tanh as in the authors' code.")
    prior: Literal["forward", "reverse"] = setting(
        "reverse", "KL direction of the prior matching: forward as in Eq. 7, reverse as in the authors' code."
    )
    symmetric: bool = setting(True, "Average both orders of the views (authors' code); false: Eq. 7 as printed.")
    epsilon: float = setting(
        1e-8, "Probability that the temperature leaves to each code but the aligned one.", gt=0, lt=1
    )
    temperature: float | None = setting(None, "Temperature τ; by default its closed form.", gt=0)
    batch_parts: Whole = setting(
        1, "Equal parts of the batch that are each matched to the prior; authors' code: one for each device.", ge=1
    )

    def check_batch(self, batch_size: int) -> None:
        refuse_if(
            batch_size % self.batch_parts or batch_size == self.batch_parts,
            "method.batch_parts",
            f"{self.batch_parts}: a batch of {batch_size} images has no so many equal parts of two or more images; "
            "choose a divisor of batch_size",
        )
        # The logarithm needs ε(c-1) < 1; from 1/2 on, the aligned code is less likely than all others together.
        refuse_if(
            self.temperature is None and self.epsilon * (self.codes - 1) >= 0.5,
            "method.epsilon",
            f"{self.epsilon:g} with method.codes {self.codes}: ε(c-1) must be below 0.5 for the temperature's closed "
            "form; choose a smaller epsilon or set method.temperature",
        )


def temperature(embedding_dim: int, batch_size: int, codes: int, epsilon: float) -> float:
    """The closed form of τ (method section of the paper): f / (sqrt(n) log((1 - ε(c-1)) / ε)).

    With it, an embedding aligned with one code gives that code 1 - ε(c-1) and every orthogonal code ε.
    Raises ValueError unless ε(c-1) < 1 - ε, without which the logarithm is not positive.

    >>> round(temperature(embedding_dim=128, batch_size=64, codes=2048, epsilon=1e-8), 4)
    0.8686
    """
    rest = epsilon * (codes - 1)
    if not 0 < epsilon < 1 - rest:
        raise ValueError(f"no temperature for epsilon={epsilon:g} and {codes} codes: ε(c-1) = {rest:g}")
    return embedding_dim / (math.sqrt(batch_size) * math.log((1 - rest) / epsilon))


def embedding(normed: Tensor, form: str) -> Tensor:
    """H of E = BatchNorm(Linear(g(x))); normed: (..., n, f). l2: rows of length sqrt(f/n); tanh: elementwise."""
    if form == "tanh":
        return torch.tanh(normed)
    n, f = normed.shape[-2:]
    return F.normalize(normed, dim=-1) * math.sqrt(f / n)


class Method(base.Method[Settings]):
    """A projector and its dictionary. BatchNorm normalises one view at a time."""

    dictionary: Tensor

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        codes, length = settings.codes, settings.embedding_dim
        super().__init__(settings, codes)
        self.linear = nn.Linear(inputs.features, length, bias=False)
        self.norm = nn.BatchNorm1d(length)
        self.register_buffer("dictionary", rademacher(codes, length, inputs.generator))
        images = inputs.batch_size // settings.batch_parts
        self.tau = settings.temperature or temperature(length, images, codes, settings.epsilon)

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        normed = parts.each_view(lambda view: self.norm(self.linear(view)), batch.features)
        results = [self._loss(part) for part in normed.chunk(self.settings.batch_parts, dim=1)]
        if len(results) == 1:
            return results[0]
        terms = {name: torch.stack([part[name] for _, part in results]).mean() for name in results[0][1]}
        return torch.stack([loss for loss, _ in results]).mean(), terms

    def _loss(self, normed: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of images that are matched to the prior together; normed: (V, n, f)."""
        how = self.settings
        h = embedding(normed, how.form) / self.tau
        return dictionary_loss(h, self.dictionary, how.beta, prior=how.prior, symmetric=how.symmetric)

    def embed(self, features: Tensor) -> Tensor:
        return embedding(self.norm(self.linear(features)), self.settings.form)

    def codes(self, embeddings: Tensor) -> Tensor:
        return nearest(embeddings, self.dictionary)
