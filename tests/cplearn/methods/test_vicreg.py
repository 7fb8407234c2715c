"""VICReg against a naive version of its equations, and its properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cplearn.methods import vicreg
from support import batch_of, build_method, normal

K, N, D = 2, 7, 5


def naive(a: np.ndarray, b: np.ndarray, eps: float) -> tuple[float, float, float]:
    """Invariance, variance and covariance of one pair of views (n, d), loop by loop, scaled as in the authors' code."""
    agree = sum((a[i, j] - b[i, j]) ** 2 for i in range(N) for j in range(D)) / (N * D)
    spread = joint = 0.0
    for z in (a, b):
        mean = z.mean(0)
        cov = sum(np.outer(row - mean, row - mean) for row in z) / (N - 1)
        spread += sum(max(0.0, 1 - np.sqrt(cov[j, j] + eps)) for j in range(D)) / D / 2
        joint += sum(cov[i, j] ** 2 for i in range(D) for j in range(D) if i != j) / D
    return agree, spread, joint


def test_terms_match_the_equations() -> None:
    z, eps = 0.7 * normal(K, 2, N, D), torch.tensor([1e-4, 0.1], dtype=torch.float64)
    got = vicreg.invariance(z), vicreg.variance(z, eps), vicreg.covariance(z)
    for k in range(K):
        expected = naive(*z[k].numpy(), eps[k].item())
        assert min(expected) > 0
        assert [term[k].item() for term in got] == pytest.approx(expected, rel=1e-12)


def test_the_loss_weighs_its_terms_for_each_member() -> None:
    weights = {"invariance": 2.0, "variance": 3.0, "covariance": 5.0}
    loss, terms = build_method("vicreg", [weights, {}], 6)(batch_of(normal(K, 2, N, 6)))
    expected = [
        sum(w * terms[name][k] for name, w in own.items())
        for k, own in enumerate((weights, {"invariance": 25, "variance": 25, "covariance": 1}))
    ]
    torch.testing.assert_close(loss, torch.stack(expected))


def test_neither_order_of_views_nor_of_images_nor_a_shift_matter() -> None:
    z, eps = normal(K, 2, N, D), torch.full((K,), 1e-4, dtype=torch.float64)
    for changed in (z.flip(1), z.flip(2), z + 3):
        torch.testing.assert_close(vicreg.invariance(changed), vicreg.invariance(z))
        torch.testing.assert_close(vicreg.variance(changed, eps), vicreg.variance(z, eps))
        torch.testing.assert_close(vicreg.covariance(changed), vicreg.covariance(z))


def test_the_optimum_is_equal_views_of_uncorrelated_dimensions_that_vary() -> None:
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    z, eps = signs.expand(1, 2, 4, 2), torch.full((1,), 1e-4, dtype=torch.float64)
    assert [vicreg.invariance(z), vicreg.variance(z, eps), vicreg.covariance(z)] == [0, 0, 0]


def test_a_collapsed_batch_has_the_largest_variance_term_and_finite_gradients() -> None:
    z = torch.ones(1, 2, N, D, dtype=torch.float64, requires_grad=True)
    term = vicreg.variance(z, torch.full((1,), 1e-4, dtype=torch.float64))
    term.sum().backward()
    assert term.item() == pytest.approx(1 - 1e-2)
    assert z.grad.isfinite().all()
