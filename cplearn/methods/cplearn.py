"""CPLearn (Sansone, Lebailly, Tuytelaars, "Collapse-Proof Non-Contrastive Self-Supervised Learning", ICML 2025).

A linear projector with BatchNorm, a frozen Rademacher dictionary, and a loss of two terms: the views of an image must
agree on their code, and over a batch all codes must be used alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cplearn import stacked
from cplearn.config import base as config
from cplearn.dictionary import codes
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


def embedding(normed: Tensor, form: str) -> Tensor:
    """H of E = BatchNorm(Linear(g(x))); normed: (..., n, f). l2: rows of length sqrt(f/n); tanh: elementwise."""
    if form == "tanh":
        return torch.tanh(normed)
    n, f = normed.shape[-2:]
    return F.normalize(normed, dim=-1) * math.sqrt(f / n)


class Method(base.Method):
    """K projectors with their dictionaries. BatchNorm normalises one view at a time."""

    beta: Tensor
    tau: Tensor
    dictionary: Tensor

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
        self.form, self.prior, self.symmetric = first.form, first.prior, first.symmetric
        self.n_codes = first.codes
        self.linear = stacked.Linear(members, features, first.embedding_dim)
        self.norm = stacked.BatchNorm1d(members, first.embedding_dim)
        dictionaries = [codes.rademacher(first.codes, first.embedding_dim, g) for g in generators]
        self.register_buffer("dictionary", torch.stack(dictionaries))
        self.member_scalars("beta", [s.beta for s in settings])
        closed = [s.temperature or temperature(s.embedding_dim, batch_size, s.codes, s.epsilon) for s in settings]
        self.member_scalars("tau", closed)

    def project(self, features: Tensor) -> Tensor:
        """(K, n, F) to H, (K, n, f)."""
        return embedding(self.norm(self.linear(features)), self.form)

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        h = torch.stack([self.project(view) for view in batch.features.unbind(1)], dim=1)
        h = h / self.tau[:, None, None, None]
        return codes.losses(h, self.dictionary, self.beta, prior=self.prior, symmetric=self.symmetric)

    def embed(self, features: Tensor) -> Tensor:
        return self.project(features)

    def codes(self, embeddings: Tensor) -> Tensor:
        return codes.nearest(embeddings, self.dictionary)
