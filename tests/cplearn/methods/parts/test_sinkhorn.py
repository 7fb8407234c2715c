"""Balanced assignments against the loops of the paper, and their marginals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cplearn.methods.parts import sinkhorn
from support import normal

K, N, C = 2, 12, 4


def naive(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Algorithm of SwAV's appendix on one member: exp, then rows and columns in turn, as written there."""
    q = np.exp(scores / epsilon).T
    q /= q.sum()
    prototypes, images = q.shape
    for _ in range(iterations):
        for row in range(prototypes):
            q[row] /= q[row].sum() * prototypes
        for column in range(images):
            q[:, column] /= q[:, column].sum() * images
    return (q * images).T


@pytest.mark.parametrize("iterations", [1, 3])
def test_assignments_are_those_of_the_paper(iterations: int) -> None:
    scores, epsilon = normal(K, N, C).tanh(), torch.tensor([0.05, 0.5], dtype=torch.float64)
    got = sinkhorn.assign(scores, epsilon, iterations)
    for k in range(K):
        np.testing.assert_allclose(got[k], naive(scores[k].numpy(), epsilon[k].item(), iterations), rtol=1e-9)


def test_marginals_are_uniform() -> None:
    q = sinkhorn.assign(normal(K, N, C), torch.tensor([0.2, 1.0], dtype=torch.float64), 300)
    torch.testing.assert_close(q.sum(2), torch.ones(K, N, dtype=torch.float64))
    torch.testing.assert_close(q.sum(1), torch.full((K, C), N / C, dtype=torch.float64), rtol=1e-4, atol=0)


def test_balanced_scores_are_their_own_assignment() -> None:
    scores = torch.eye(C).repeat(N // C, 1)[None]
    q = sinkhorn.assign(scores, torch.tensor([0.05]), 3)
    torch.testing.assert_close(q, scores, atol=1e-6, rtol=0)


def test_one_preferred_prototype_is_not_given_everything() -> None:
    scores = normal(1, N, C)
    scores[..., 0] += 100
    q = sinkhorn.assign(scores, torch.tensor([0.05], dtype=torch.float64), 3)
    assert q.isfinite().all()
    assert q[..., 0].sum() < N / 2
