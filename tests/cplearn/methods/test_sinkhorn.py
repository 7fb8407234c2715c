"""Balanced assignments against the loops of the paper, and their marginals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cplearn.methods.swav import sinkhorn
from support import normal

N, C = 12, 4


def naive(scores: np.ndarray, epsilon: float, iterations: int) -> np.ndarray:
    """Algorithm of SwAV's appendix: exp, then rows and columns in turn, as written there."""
    q = np.exp(scores / epsilon).T
    q /= q.sum()
    prototypes, images = q.shape
    for _ in range(iterations):
        for row in range(prototypes):
            q[row] /= q[row].sum() * prototypes
        for column in range(images):
            q[:, column] /= q[:, column].sum() * images
    return (q * images).T


@pytest.mark.parametrize("epsilon", [0.05, 0.5])
@pytest.mark.parametrize("iterations", [1, 3])
def test_assignments_are_those_of_the_paper(iterations: int, epsilon: float) -> None:
    scores = normal(N, C).tanh()
    expected = naive(scores.numpy(), epsilon, iterations)
    np.testing.assert_allclose(sinkhorn(scores, epsilon, iterations), expected, rtol=1e-9)


@pytest.mark.parametrize("epsilon", [0.2, 1.0])
def test_marginals_are_uniform(epsilon: float) -> None:
    q = sinkhorn(normal(N, C), epsilon, 300)
    torch.testing.assert_close(q.sum(1), torch.ones(N, dtype=torch.float64))
    torch.testing.assert_close(q.sum(0), torch.full((C,), N / C, dtype=torch.float64), rtol=1e-4, atol=0)


def test_balanced_scores_are_their_own_assignment() -> None:
    scores = torch.eye(C).repeat(N // C, 1)
    torch.testing.assert_close(sinkhorn(scores, 0.05, 3), scores, atol=1e-6, rtol=0)


def test_one_preferred_prototype_is_not_given_everything() -> None:
    scores = normal(N, C)
    scores[:, 0] += 100
    q = sinkhorn(scores, 0.05, 3)
    assert q.isfinite().all()
    assert q[:, 0].sum() < N / 2
