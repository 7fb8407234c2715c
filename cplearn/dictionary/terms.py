"""Terms of losses over soft assignments p_ij of image i to code j, given as logarithms."""

import itertools
import math

import torch
from torch import Tensor


def cross_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """-(1/n) Σ_i Σ_j p_ij log q_ij with gradients through both; (n, c) twice to a scalar."""
    return -(log_p.exp() * log_q).sum(-1).mean()


def invariance(log_p: Tensor, symmetric: bool = True) -> Tensor:
    """First term of CPLearn's Eq. 7 without β: the mean cross-entropy over `pairs` of views of (V, n, c)."""
    return torch.stack([cross_entropy(log_p[a], log_p[b]) for a, b in pairs(len(log_p), symmetric)]).mean()


def pairs(views: int, symmetric: bool) -> list[tuple[int, int]]:
    """Which view is p and which p' in Eq. 7: every ordered pair, or the first against the second as printed."""
    return list(itertools.permutations(range(views), 2)) if symmetric else [(0, 1)]


def log_usage(log_p: Tensor) -> Tensor:
    """Logarithm of the batch's mean assignment log p̄_j, finite even where p̄_j underflows; (..., n, c) to (..., c)."""
    return torch.logsumexp(log_p, dim=-2) - math.log(log_p.shape[-2])


def prior_matching(log_mean: Tensor, direction: str) -> Tensor:
    """Distance of the mean assignment log p̄ from the uniform prior q_j = 1/c; (..., c) to (...).

    forward: -Σ_j q_j log p̄_j, second term of Eq. 7, at least log c. reverse: Σ_j p̄_j log(c p̄_j), at least 0.
    """
    if direction == "forward":
        return -log_mean.mean(-1)
    return (log_mean.exp() * (log_mean + math.log(log_mean.shape[-1]))).sum(-1)


def entropy(log_p: Tensor) -> Tensor:
    """-Σ_j p_j log p_j of distributions; (..., c) to (...)."""
    return -(log_p.exp() * log_p).sum(-1)


def perplexity(log_p: Tensor) -> Tensor:
    """The number of codes that the batch's mean assignment amounts to, mean over views; (V, n, c) to a scalar."""
    return entropy(log_usage(log_p)).exp().mean()
