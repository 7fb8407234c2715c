"""Label-free criteria: closed forms, naive references, and what each of them sees or misses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

from cplearn.evaluate.collapse import lidar, view_agreement
from cplearn.evaluate.inputs import NonFiniteFeatures

N = 2000


def agreement(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    results = dict(view_agreement(first, second))
    assert list(results) == ["select/view_information", "select/view_ami"]
    information, ami = results.values()
    return information, ami


@pytest.mark.parametrize("codes", [2, 20])
def test_views_that_agree_tell_all_but_what_chance_would(codes: int) -> None:
    first = np.arange(N) % codes
    information, ami = agreement(first * 3, first)
    # Miller-Madow: by chance two such codes share about (c - 1)^2 / 2n nats.
    assert information == pytest.approx(math.log(codes) - (codes - 1) ** 2 / (2 * N), rel=0.01)
    assert ami == pytest.approx(1)


def test_codes_that_ignore_the_image_tell_nothing() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 500, (2, N))
    information, ami = agreement(first, second)
    assert information == pytest.approx(0, abs=0.02)
    assert ami == pytest.approx(0, abs=0.02)
    assert agreement(np.zeros(N, int), np.zeros(N, int)) == (0, 0)
    assert agreement(np.zeros(N, int), first)[0] == pytest.approx(0, abs=1e-12)


def test_information_falls_with_cluster_collapse_and_with_disagreement() -> None:
    """AMI alone sees the second only: five codes that never disagree look perfect."""
    generator = np.random.default_rng(0)
    good = np.arange(N) % 50
    noisy = np.where(generator.random(N) < 0.5, generator.integers(0, 50, N), good)
    few = np.arange(N) % 5
    assert agreement(good, good)[0] > agreement(few, few)[0] > agreement(few, np.roll(few, 1) * 0)[0]
    assert agreement(good, good)[0] > agreement(good, noisy)[0] > 0
    assert agreement(few, few)[1] == pytest.approx(1)
    assert agreement(good, noisy)[1] == pytest.approx(adjusted_mutual_info_score(good, noisy), abs=1e-12)
    assert agreement(good, noisy)[1] < 0.6


@pytest.mark.parametrize(("images", "codes"), [(128, 2048), (500, 20), (1000, 2), (3, 2)])
def test_information_is_that_of_scikit_learn(images: int, codes: int) -> None:
    generator = np.random.default_rng(codes)
    first = generator.integers(0, codes, images)
    second = np.where(generator.random(images) < 0.5, first, generator.integers(0, codes, images))
    table = contingency_matrix(first, second, sparse=True, dtype=np.int64)
    expected = mutual_info_score(None, None, contingency=table) - expected_mutual_information(table, images)
    assert agreement(first, second)[0] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_codes_of_different_images_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 2 codes"):
        agreement(np.arange(3), np.arange(2))


def naive_lidar(z: np.ndarray) -> float:
    """As in the paper, image by image and view by view, with an explicit inverse root."""
    n, q, f = z.shape
    z = z / np.sqrt(np.mean(z**2))
    grand = np.mean([z[i].mean(0) for i in range(n)], axis=0)
    between, within = np.zeros((f, f)), 1e-4 * np.eye(f)
    for i in range(n):
        mean = z[i].mean(0)
        between += np.outer(mean - grand, mean - grand) / n
        for j in range(q):
            within += np.outer(z[i, j] - mean, z[i, j] - mean) / (n * q)
    values, vectors = np.linalg.eigh(within)
    root = vectors @ np.diag(values**-0.5) @ vectors.T
    own = np.linalg.eigvalsh(root @ between @ root)
    p = own / own.sum() + 1e-7
    return math.exp(-(p * np.log(p)).sum())


def images_and_views(informative: int, f: int = 12, noise: float = 0.3) -> np.ndarray:
    """Images differ in the first `informative` dimensions; in all of them the views of an image do."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(300, 1, f)) * (np.arange(f) < informative)
    return images + noise * generator.normal(size=(300, 8, f))


@pytest.mark.parametrize("informative", [1, 4, 12])
def test_lidar_counts_directions_in_which_images_differ(informative: int) -> None:
    z = images_and_views(informative, noise=0.02)
    assert lidar(z) == pytest.approx(naive_lidar(z), rel=1e-6)
    assert lidar(z) == pytest.approx(informative, rel=0.1)


def test_lidar_does_not_depend_on_the_scale_and_is_zero_without_images() -> None:
    z = images_and_views(4)
    assert lidar(1e-3 * z) == pytest.approx(lidar(z), rel=1e-6)
    assert lidar(np.ones((5, 3, 4))) == 0
    assert lidar(np.zeros((5, 3, 4))) == 0


def test_what_lidar_cannot_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two views"):
        lidar(np.ones((5, 1, 4)))
    with pytest.raises(NonFiniteFeatures, match="1 of 15 rows"):
        lidar(np.where(np.arange(60).reshape(5, 3, 4) == 7, np.nan, 1.0))
