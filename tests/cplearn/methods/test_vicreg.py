"""VICReg against a naive version of its equations, and its properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cplearn.methods import vicreg
from method_checks import check_against_naive
from support import batch_of, build_method, normal

N, D = 7, 5


def naive(views: np.ndarray, eps: float) -> tuple[float, float, float]:
    """Invariance, variance and covariance of two views (2, n, d), loop by loop, scaled as in the authors' code."""
    a, b = views
    agree = sum((a[i, j] - b[i, j]) ** 2 for i in range(N) for j in range(D)) / (N * D)
    spread = joint = 0.0
    for z in (a, b):
        mean = z.mean(0)
        cov = sum(np.outer(row - mean, row - mean) for row in z) / (N - 1)
        spread += sum(max(0.0, 1 - np.sqrt(cov[j, j] + eps)) for j in range(D)) / D / 2
        joint += sum(cov[i, j] ** 2 for i in range(D) for j in range(D) if i != j) / D
    return agree, spread, joint


@pytest.mark.parametrize("eps", [1e-4, 0.1])
def test_terms_match_the_equations(eps: float) -> None:
    z = 0.7 * normal(2, N, D)
    assert min(naive(z.numpy(), eps)) > 0
    terms = (vicreg.invariance, lambda x: vicreg.variance(x, eps), vicreg.covariance)
    for i, term in enumerate(terms):
        check_against_naive(term, lambda x, i=i: naive(x, eps)[i], z, rel=1e-12)


@pytest.mark.parametrize("weights", [{}, {"invariance": 2.0, "variance": 3.0, "covariance": 5.0}])
def test_the_loss_weighs_its_terms(weights: dict) -> None:
    loss, terms = build_method("vicreg", weights)(batch_of(normal(2, N, 6)))
    published = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}
    torch.testing.assert_close(loss, sum(w * terms[name] for name, w in {**published, **weights}.items()))


def test_neither_order_of_views_nor_of_images_nor_a_shift_matter() -> None:
    z = normal(2, N, D)
    for changed in (z.flip(0), z.flip(1), z + 3):
        torch.testing.assert_close(vicreg.invariance(changed), vicreg.invariance(z))
        torch.testing.assert_close(vicreg.variance(changed, 1e-4), vicreg.variance(z, 1e-4))
        torch.testing.assert_close(vicreg.covariance(changed), vicreg.covariance(z))


def test_the_optimum_is_equal_views_of_uncorrelated_dimensions_that_vary() -> None:
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    z = signs.expand(2, 4, 2)
    assert [vicreg.invariance(z), vicreg.variance(z, 1e-4), vicreg.covariance(z)] == [0, 0, 0]


def test_a_collapsed_batch_has_the_largest_variance_term_and_finite_gradients() -> None:
    z = torch.ones(2, N, D, dtype=torch.float64, requires_grad=True)
    term = vicreg.variance(z, 1e-4)
    term.backward()
    assert term.item() == pytest.approx(1 - 1e-2)
    assert z.grad.isfinite().all()


def test_of_three_views_all_count() -> None:
    z = normal(3, N, D)
    pairs = [z[list(pair)] for pair in ((0, 1), (0, 2), (1, 2))]
    for term in (vicreg.invariance, lambda x: vicreg.variance(x, 1e-4), vicreg.covariance):
        torch.testing.assert_close(term(z), torch.stack([term(pair) for pair in pairs]).mean())
