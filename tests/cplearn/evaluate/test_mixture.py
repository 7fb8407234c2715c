"""Entropy of Gaussian mixtures: closed form, intra-cluster collapse, seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cplearn.evaluate import collapse
from cplearn.evaluate.collapse import mixture_entropy
from cplearn.evaluate.inputs import NonFiniteFeatures

N, F = 600, 32


def entropies(z: np.ndarray, components: list[int], seed: int = 0, measure: str = "collapse") -> dict[str, float]:
    results = mixture_entropy(z, components, seed=seed)
    return {name.partition("/")[2]: value for name, value in results if name.startswith(measure)}


def clusters(spread: float) -> np.ndarray:
    """Ten clusters of the same centres, with more or less variation within."""
    generator = np.random.default_rng(0)
    return generator.normal(size=(10, F))[np.arange(N) % 10] + spread * generator.normal(size=(N, F))


def test_one_component_has_the_entropy_of_its_gaussian() -> None:
    """Rows of length sqrt(f) in all directions have variance 1 in each dimension."""
    z = np.random.default_rng(0).normal(size=(4000, F))
    results = entropies(1e-3 * z, [1])
    assert results["entropy_1"] == pytest.approx(F / 2 * math.log(2 * math.pi * math.e), abs=0.2)
    # The standard deviation of -log p over 10,000 samples is sqrt(f / 2).
    assert results["entropy_1_std"] == pytest.approx(math.sqrt(F / 2 / 10_000), rel=0.9)
    assert results["entropy_1_std"] > 0


def test_intra_cluster_collapse_lowers_the_entropy() -> None:
    """A tenth of the spread costs f log 10 nats; collapsed to points, the clusters have the variance's floor."""
    wide, narrow, points = (entropies(clusters(spread), [10])["entropy_10"] for spread in (0.1, 0.01, 0.0))
    assert wide - narrow == pytest.approx(F * math.log(10), rel=0.05)
    floor = F / 2 * math.log(2 * math.pi * math.e * 1e-6) + math.log(10)
    assert points == pytest.approx(floor, abs=0.5)


def test_the_papers_entropy_is_that_of_the_padded_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scaled to [0, 1] over the whole matrix and padded with zeros, as the authors' script fits it."""
    from sklearn.mixture import GaussianMixture

    monkeypatch.setattr(collapse, "PAPER_WIDTH", F + 8)
    z = clusters(0.1)
    scaled = np.pad((z - z.min()) / (z.max() - z.min()), ((0, 0), (0, 8)))
    fitted = GaussianMixture(10, covariance_type="diag", random_state=0).fit(scaled)
    published = np.mean([-fitted.score(fitted.sample(10_000)[0]) for _ in range(10)])
    assert entropies(z, [10], measure="paper")["entropy_10"] == pytest.approx(published, abs=0.2)


def test_names_and_seeds() -> None:
    z = clusters(1.0)[:200, :8]
    results = entropies(z, [2, 5])
    assert list(results) == ["entropy_2", "entropy_2_std", "entropy_5", "entropy_5_std"]
    # The number of components of one mixture does not disturb another.
    assert entropies(z, [5]) == {name: results[name] for name in ("entropy_5", "entropy_5_std")}
    assert entropies(z, [5], seed=1)["entropy_5"] != results["entropy_5"]
    assert entropies(z, []) == {}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="n_components = 20, n_samples = 10"):
        entropies(clusters(1.0)[:10], [20])
    with pytest.raises(NonFiniteFeatures, match="1 of 10 rows"):
        entropies(np.where(np.eye(10) * np.arange(10) == 9, np.inf, 1.0), [2])
