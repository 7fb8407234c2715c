"""CPLearn (Sansone, Lebailly, Tuytelaars, "Collapse-Proof Non-Contrastive Self-Supervised Learning", ICML 2025).

A linear projector with BatchNorm, a frozen Rademacher dictionary, and a loss of two terms: the views of an image must
agree on their code, and over a batch all codes must be used alike.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cplearn import config, stacked
from cplearn.errors import InputError
from cplearn.methods import base


class Settings(config.MethodSettings):
    name: str = Field("cplearn", description="CPLearn.")
    beta: Annotated[float, config.PerMember()] = Field(
        1.0, gt=0, description="Weight β of the invariance term (Eq. 7)."
    )
    codes: config.Whole = Field(2048, ge=2, description="Dictionary size c.")
    embedding_dim: config.Whole = Field(128, ge=2, description="Projector width f, the length of a code.")
    form: Literal["l2", "tanh"] = Field(
        "l2", description="Embedding: l2 as in the paper, tanh as in the authors' code."
    )
    prior: Literal["forward", "reverse"] = Field(
        "reverse",
        description="KL direction of the prior matching: forward as in Eq. 7, reverse as in the authors' code.",
    )
    symmetric: bool = Field(
        True, description="Average both orders of the views (authors' code); false: Eq. 7 as printed."
    )
    epsilon: Annotated[float, config.PerMember()] = Field(
        1e-8, gt=0, lt=1, description="Probability that the temperature leaves to each code but the aligned one."
    )
    temperature: Annotated[float | None, config.PerMember()] = Field(
        None, gt=0, description="Temperature τ; by default its closed form."
    )

    def check_batch(self, batch_size: int) -> None:
        if self.temperature is None and self.epsilon * (self.codes - 1) >= 0.5:
            # The logarithm needs ε(c-1) < 1; from 1/2 on, the aligned code is less likely than all others together.
            raise InputError(
                f"method.epsilon {self.epsilon:g} with method.codes {self.codes}: ε(c-1) must be below 0.5 for the "
                f"temperature's closed form; choose a smaller epsilon or set method.temperature",
                key="method.epsilon",
            )


def temperature(embedding_dim: int, batch_size: int, codes: int, epsilon: float) -> float:
    """The closed form of τ (method section of the paper): f / (sqrt(n) log((1 - ε(c-1)) / ε)).

    With it, an embedding aligned with one code gives that code 1 - ε(c-1) and every orthogonal code ε.
    Raises ValueError unless ε(c-1) < 1 - ε, without which the logarithm is not positive.
    """
    rest = epsilon * (codes - 1)
    if not 0 < epsilon < 1 - rest:
        raise ValueError(f"no temperature for epsilon={epsilon:g} and {codes} codes: ε(c-1) = {rest:g}")
    return embedding_dim / (math.sqrt(batch_size) * math.log((1 - rest) / epsilon))


def rademacher(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A (rows, columns) matrix of independent fair signs, int8, from a CPU generator."""
    return torch.randint(0, 2, (rows, columns), generator=generator, dtype=torch.int8).mul_(2).sub_(1)


def embedding(normed: Tensor, form: str) -> Tensor:
    """H of E = BatchNorm(Linear(g(x))); normed: (..., n, f). l2: rows of length sqrt(f/n); tanh: elementwise."""
    if form == "tanh":
        return torch.tanh(normed)
    n, f = normed.shape[-2:]
    return F.normalize(normed, dim=-1) * math.sqrt(f / n)


def cross_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """-(1/n) Σ_i Σ_j p_ij log q_ij with gradients through both; (..., n, c) twice to (...)."""
    return -(log_p.exp() * log_q).sum(-1).mean(-1)


def invariance(log_p: Tensor, symmetric: bool = True) -> Tensor:
    """First term of Eq. 7 without β; log_p: (K, V, n, c) to (K,).

    Symmetric: the mean over all ordered pairs of views; otherwise each view is told apart from the next by the first
    as p and the second as p', as printed.
    """
    views = range(log_p.shape[1])
    pairs = list(itertools.permutations(views, 2)) if symmetric else list(itertools.pairwise(views))
    return torch.stack([cross_entropy(log_p[:, a], log_p[:, b]) for a, b in pairs]).mean(0)


def log_usage(log_p: Tensor) -> Tensor:
    """Logarithm of the batch's mean assignment log p̄_j, finite even where p̄_j underflows; (..., n, c) to (..., c)."""
    return torch.logsumexp(log_p, dim=-2) - math.log(log_p.shape[-2])


def prior_matching(log_mean: Tensor, direction: str) -> Tensor:
    """Distance of the mean assignment from the uniform prior q_j = 1/c; (..., c) to (...).

    forward: -Σ_j q_j log p̄_j, second term of Eq. 7, at least log c. reverse: Σ_j p̄_j log(c p̄_j), at least 0.
    """
    if direction == "forward":
        return -log_mean.mean(-1)
    return (log_mean.exp() * (log_mean + math.log(log_mean.shape[-1]))).sum(-1)


class Method(base.Method):
    """K projectors with their dictionaries. BatchNorm normalises one view at a time."""

    beta: Tensor
    tau: Tensor
    dictionary: Tensor

    def __init__(
        self, settings: Sequence[Settings], features: int, batch_size: int, generators: Sequence[torch.Generator]
    ) -> None:
        super().__init__()
        first, members = settings[0], len(settings)
        self.form, self.prior, self.symmetric = first.form, first.prior, first.symmetric
        self.n_codes = first.codes
        self.linear = stacked.Linear(members, features, first.embedding_dim)
        self.norm = stacked.BatchNorm1d(members, first.embedding_dim)
        dictionaries = [rademacher(first.embedding_dim, first.codes, g) for g in generators]
        self.register_buffer("dictionary", torch.stack(dictionaries))
        self.member_scalars("beta", [s.beta for s in settings])
        closed = [s.temperature or temperature(s.embedding_dim, batch_size, s.codes, s.epsilon) for s in settings]
        self.member_scalars("tau", closed)

    def project(self, features: Tensor) -> Tensor:
        """(K, n, F) to H, (K, n, f)."""
        return embedding(self.norm(self.linear(features)), self.form)

    def forward(self, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        views, n = features.shape[1:3]
        h = torch.cat([self.project(view) for view in features.unbind(1)], dim=1)
        logits = torch.bmm(h / self.tau[:, None, None], self.dictionary.to(h.dtype))
        log_p = F.log_softmax(logits, dim=-1).unflatten(1, (views, n))
        log_mean = log_usage(log_p)
        agree = invariance(log_p, self.symmetric)
        prior = prior_matching(log_mean, self.prior)
        prior = prior.mean(1) if self.symmetric else prior[:, 0]
        loss = self.beta * agree + prior
        with torch.no_grad():
            perplexity = -(log_mean.exp() * log_mean).sum(-1)
        terms = {"invariance": agree, "prior": prior, "batch_perplexity": perplexity.exp().mean(1)}
        return loss, terms

    def embed(self, features: Tensor) -> Tensor:
        return self.project(features)

    def codes(self, embeddings: Tensor) -> Tensor:
        weight = self.dictionary.to(embeddings.dtype)
        blocks = embeddings.split(1024, dim=1)
        return torch.cat([torch.bmm(block, weight).argmax(-1) for block in blocks], dim=1)
