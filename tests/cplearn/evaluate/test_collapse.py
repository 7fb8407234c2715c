"""Collapse diagnostics: closed forms, and each collapse seen by the number that is there for it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cplearn.evaluate.collapse import (
    alpha_req,
    code_counts,
    collapse,
    effective_rank,
    intra_cluster_variance,
    offdiag_correlation,
    perplexity,
    singular_values,
)

N, F = 400, 8


def gaussian(n: int = N, f: int = F, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, f))


def diagnose(embeddings: np.ndarray, assignments: np.ndarray, n_codes: int = 16) -> dict[str, float]:
    results = collapse(embeddings, assignments, n_codes)
    return {name.removeprefix("collapse/"): value for name, value in results}


def random_codes(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 16, N)


def test_healthy_embeddings() -> None:
    results = diagnose(gaussian(), random_codes())
    assert results["codes_used"] == 16
    assert 15 < results["code_perplexity"] <= 16
    assert 0.98 * F < results["effective_rank"] < F
    assert results["offdiag_covariance"] < 0.1
    assert results["intra_cluster_variance"] == pytest.approx(1, abs=0.05)
    assert results["embedding_std"] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("row", [np.full(F, 0.1, dtype=np.float32), gaussian(1).astype(np.float32)[0], np.zeros(F)])
def test_representation_collapse(row: np.ndarray) -> None:
    results = diagnose(np.tile(row, (N, 1)), np.zeros(N, dtype=np.int64))
    expected = {
        "codes_used": 1,
        "code_perplexity": 1,
        "effective_rank": float(row.any()),
        "offdiag_covariance": 1,
        "intra_cluster_variance": 0,
        "embedding_std": 0,
    }
    assert results == pytest.approx(expected, abs=1e-4)


def test_rounding_noise_does_not_hide_representation_collapse() -> None:
    same = np.tile(gaussian(1), (N, 1)) * (1 + 1e-7 * gaussian())
    results = diagnose(same, random_codes())
    assert results["offdiag_covariance"] == 1
    assert results["intra_cluster_variance"] == 0
    assert results["embedding_std"] < 1e-6


def test_dimensional_collapse() -> None:
    results = diagnose(gaussian(N, 1) @ gaussian(1, F, seed=2), random_codes())
    assert results["effective_rank"] == pytest.approx(1, abs=1e-4)
    assert results["offdiag_covariance"] == pytest.approx(1)


def test_intra_cluster_collapse() -> None:
    codes = random_codes()
    results = diagnose(gaussian(16)[codes] * np.exp(gaussian(N, 1)), codes)
    assert results["intra_cluster_variance"] == pytest.approx(0, abs=1e-12)
    assert results["embedding_std"] > 0.9


@pytest.mark.parametrize(
    ("matrix", "rank"),
    [
        (np.eye(6), 6),
        (3e-3 * np.eye(6)[:, :4], 4),
        (np.eye(6)[:2], 2),
        (np.ones((5, 4)), 1),
        (np.diag([3.0, 1.0]), 4 / 27**0.25),  # entropy of (3/4, 1/4): log 4 - (3/4) log 3
        (np.zeros((3, 2)), 0),
    ],
)
def test_effective_rank(matrix: np.ndarray, rank: float) -> None:
    assert effective_rank(matrix) == pytest.approx(rank, abs=2e-5)


def test_effective_rank_is_rankme_with_its_epsilon() -> None:
    z = gaussian(50, 30) * np.logspace(0, -9, 30)
    sigma = np.linalg.svd(z, compute_uv=False)
    p = sigma / sigma.sum() + 1e-7
    assert effective_rank(z) == pytest.approx(np.exp(-np.sum(p * np.log(p))), rel=1e-6)
    assert effective_rank(np.ones((9, 1000))) == pytest.approx(1 + 8e-7 * (1 + math.log(1e7)), abs=1e-6)


@pytest.mark.parametrize(
    ("counts", "expected"), [([5, 5, 5, 5], 4), ([0, 9, 0], 1), ([3, 0, 3], 2), ([3, 1], 4 / 27**0.25)]
)
def test_perplexity(counts: list[int], expected: float) -> None:
    assert perplexity(np.array(counts)) == pytest.approx(expected)


def test_offdiag_correlation_is_free_of_scale() -> None:
    z = gaussian()
    reference = np.abs(np.corrcoef(z.T))[~np.eye(F, dtype=bool)].mean()
    assert offdiag_correlation(z) == pytest.approx(reference)
    assert offdiag_correlation(z * np.logspace(-5, 5, F) + 3) == pytest.approx(reference)
    # A constant dimension is in no pair.
    assert offdiag_correlation(np.hstack([z, np.ones((N, 1))])) == pytest.approx(reference)
    square = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert offdiag_correlation(square) == 0
    assert offdiag_correlation(square * [1, 0]) == 1


def test_intra_cluster_variance_by_hand() -> None:
    """Points 0, 2 | 4, 6 | 100 about their means: 1 + 1 + 1 + 1 + 0, over 5 - 3; the lone one adds to the total."""
    x, codes = np.array([[0.0], [4.0], [100.0], [2.0], [6.0]]), np.array([0, 3, 9, 0, 3])
    assert intra_cluster_variance(x, codes) == pytest.approx(2 / np.var(x, ddof=1))
    assert intra_cluster_variance(x, np.arange(5)) is None
    assert intra_cluster_variance(x, np.zeros(5, dtype=np.int64)) == pytest.approx(1)


def test_singletons_do_not_look_like_intra_cluster_collapse() -> None:
    """With more codes than images most codes hold one image; random codes must still give about 1."""
    codes = np.random.default_rng(0).integers(0, 1000, N)
    assert diagnose(gaussian(), codes, 1000)["intra_cluster_variance"] == pytest.approx(1, abs=0.1)
    assert "intra_cluster_variance" not in diagnose(gaussian(), np.arange(N), N)


def test_scale_of_embeddings_does_not_matter() -> None:
    codes = random_codes()
    assert diagnose(1e-4 * gaussian(), codes) == pytest.approx(diagnose(gaussian(), codes))


def test_singular_values_by_hand() -> None:
    """The entries run from -1 to 3; scaled by 4, the columns have variances 1/4 and 1/16, uncorrelated."""
    z = np.array([[3.0, 1.0], [3.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    np.testing.assert_allclose(singular_values(z), [1 / 4, 1 / 16], rtol=1e-12)


def test_singular_values_of_the_scaled_covariance() -> None:
    z = gaussian(100, 5) * [1, 10, 3, 0.1, 2]
    scaled = (z - z.min()) / (z.max() - z.min())
    reference = np.linalg.svd(np.cov(scaled.T, bias=True), compute_uv=False)
    values = singular_values(z)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, reference, rtol=1e-9)
    np.testing.assert_allclose(singular_values(-7 * z + 2), reference, rtol=1e-9)
    assert (singular_values(np.ones((4, 3))) == 0).all()
    assert singular_values(gaussian(2, 6))[1:] == pytest.approx(0, abs=1e-15)


def test_the_papers_singular_values_are_those_of_the_padded_matrix_that_is_not_centred() -> None:
    z = gaussian(100, 5) + 3
    padded = np.pad((z - z.min()) / (z.max() - z.min()), ((0, 0), (0, 7)))
    reference = np.linalg.svd(padded.T @ padded / 100, compute_uv=False)
    np.testing.assert_allclose(singular_values(z, centred=False), reference[:5], rtol=1e-9)
    assert reference[5:] == pytest.approx(0)


def test_code_counts() -> None:
    counts = code_counts(np.array([3, 0, 3]), 5)
    assert counts.tolist() == [1, 0, 0, 2, 0]
    assert counts.dtype == np.int64
    for bad in (-1, 5):
        with pytest.raises(ValueError, match=r"outside of 0\.\.4"):
            code_counts(np.array([0, 4, bad]), 5)
    with pytest.raises(ValueError, match="3 assignments for 400 embeddings"):
        diagnose(gaussian(), np.zeros(3, dtype=np.int64))


@pytest.mark.parametrize(("alpha", "dimensions", "images"), [(1.0, 64, 500), (2.5, 8, 500), (0.5, 200, 120)])
def test_alpha_req_of_an_exact_power_law(alpha: float, dimensions: int, images: int) -> None:
    generator = np.random.default_rng(0)
    rank = min(dimensions, images - 1)
    # Orthonormal columns without a mean, so that the covariance has the eigenvalues i^-alpha.
    noise = generator.normal(size=(images, rank))
    scores = np.linalg.qr(noise - noise.mean(0))[0]
    axes = np.linalg.qr(generator.normal(size=(dimensions, dimensions)))[0][:rank]
    z = scores * np.arange(1, rank + 1) ** (-alpha / 2) @ axes
    assert alpha_req(z) == pytest.approx(alpha, rel=1e-6)
    assert alpha_req(7 * z + 3) == pytest.approx(alpha, rel=1e-6)


def test_alpha_req_is_steep_where_dimensions_have_collapsed() -> None:
    z = gaussian()
    flat = alpha_req(z)
    line = alpha_req(z[:, :1] * np.arange(1, F + 1))
    assert flat is not None
    assert line is not None
    assert line > 10 > 1 > flat
    assert alpha_req(np.ones((9, 4))) is None
    assert alpha_req(np.arange(9.0)[:, None]) is None
