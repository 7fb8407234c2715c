"""Clustering metrics: small cases by hand, brute force, and the levels that chance alone reaches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from cplearn.evaluate.clustering import clustering, kmeans


def measure(labels: object, assignments: object, seed: int = 0) -> dict[str, float]:
    generator = np.random.default_rng(seed)
    results = clustering("x", np.asarray(labels), np.asarray(assignments), generator=generator)
    return {name.removeprefix("x/"): value for name, value in results}


@pytest.mark.parametrize(
    ("labels", "assignments", "expected"),
    [
        ([0, 0, 1, 1], [7, 7, 3, 3], {"nmi": 1, "ami": 1, "ari": 1, "accuracy": 1, "clusters": 2}),
        # Independent: no information. Each cluster holds one image of each class.
        ([0, 0, 1, 1], [0, 1, 0, 1], {"nmi": 0, "ami": -0.5, "ari": -0.5, "accuracy": 0.5, "clusters": 2}),
        # All alone: I = H(labels) = log 2, H(clusters) = log 4, NMI = 2/3; two of four clusters stand for a class.
        ([0, 0, 1, 1], [0, 1, 2, 3], {"nmi": 2 / 3, "nmi_chance": 2 / 3, "ami": 0, "ari": 0, "accuracy": 0.5}),
        # Cluster collapse: the one cluster stands for one class.
        ([0, 0, 1, 1], [5, 5, 5, 5], {"nmi": 0, "nmi_chance": 0, "ami": 0, "ari": 0, "accuracy": 0.5, "clusters": 1}),
        # A class missing in the test set, and nothing to tell.
        ([2, 2, 2], [0, 0, 0], {"nmi": 1, "nmi_chance": 1, "ami": 1, "ari": 1, "accuracy": 1, "clusters": 1}),
        ([2, 2, 2], [0, 1, 1], {"nmi": 0, "nmi_chance": 0, "ami": 0, "ari": 0, "accuracy": 2 / 3, "clusters": 2}),
        ([4], [9], {"nmi": 1, "nmi_chance": 1, "accuracy": 1, "clusters": 1}),
    ],
)
def test_small_cases(labels: list[int], assignments: list[int], expected: dict[str, float]) -> None:
    results = measure(labels, assignments)
    assert {name: results[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("clusters", [1, 3, 5])
def test_accuracy_is_the_best_of_all_matchings(classes: int, clusters: int) -> None:
    generator = np.random.default_rng(classes * clusters)
    labels, assignments = generator.integers(0, classes, 25), generator.integers(0, clusters, 25)
    slots = list(range(classes)) + [-1] * max(0, clusters - classes)
    best = max(np.mean(np.array(p)[assignments] == labels) for p in itertools.permutations(slots, clusters))
    assert measure(labels, assignments)["accuracy"] == pytest.approx(best)


def test_names_of_classes_and_clusters_do_not_matter() -> None:
    generator = np.random.default_rng(0)
    labels, assignments = generator.integers(0, 4, 200), generator.integers(0, 30, 200)
    renamed = measure(labels * 10 - 7, 10**9 + 50 * assignments)
    assert renamed == measure(labels, assignments)
    tensors = clustering("x", torch.tensor(labels), torch.tensor(assignments), generator=np.random.default_rng(0))
    assert dict(tensors)["x/nmi"] == renamed["nmi"]


@pytest.mark.parametrize(
    ("images", "classes", "codes", "level"),
    [
        (26_032, 10, 10, 0.001),
        (26_032, 10, 2_048, 0.083),
        (10_000, 10, 256, 0.031),
        (10_000, 100, 16_384, 0.631),
    ],
)
def test_chance_level_of_nmi(images: int, classes: int, codes: int, level: float) -> None:
    """Random codes, balanced classes, sizes of SVHN, CIFAR-10 and CIFAR-100: NMI has a floor, AMI and ARI have none."""
    labels, assignments = np.arange(images) % classes, np.random.default_rng(1).integers(0, codes, images)
    results = measure(labels, assignments)
    assert results["nmi"] == pytest.approx(level, abs=0.01)
    assert results["nmi_chance"] == pytest.approx(results["nmi"], abs=0.003)
    assert results["ami"] == pytest.approx(0, abs=0.005)
    assert results["ari"] == pytest.approx(0, abs=0.005)


CHANCE = {  # images, classes: the published sizes of SVHN, CIFAR-10 and CIFAR-100; NMI of random codes
    (26_032, 10): {10: 0.001, 128: 0.006, 256: 0.012, 2_048: 0.083, 16_384: 0.273},
    (10_000, 10): {10: 0.002, 128: 0.017, 256: 0.031, 2_048: 0.188, 16_384: 0.352},
    (10_000, 100): {10: 0.013, 128: 0.147, 256: 0.233, 2_048: 0.485, 16_384: 0.631},
}


@pytest.mark.parametrize(("images", "classes"), CHANCE)
def test_the_table_of_chance_levels(images: int, classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published beside c = 16,384: .31, .35 and .58, hardly above or even below what random codes reach."""
    monkeypatch.setattr("cplearn.evaluate.clustering.SHUFFLES", 2)
    labels = np.arange(images) % classes
    for codes, level in CHANCE[images, classes].items():
        assignments = np.random.default_rng(codes).integers(0, codes, images)
        results = clustering("codes", labels, assignments, generator=np.random.default_rng(0))
        # AMI, which is slow with many codes, comes later and is not asked for.
        nmi, chance = dict(itertools.islice(results, 2)).values()
        assert (nmi, chance) == pytest.approx((level, level), abs=0.01), codes


def test_shuffled_nmi_is_that_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    labels, assignments = draw.integers(0, 5, 300), draw.integers(0, 40, 300) ** 2
    shuffler = np.random.default_rng(3)
    compact = np.unique(assignments, return_inverse=True)[1]
    reference = [normalized_mutual_info_score(labels, shuffler.permutation(compact)) for _ in range(10)]
    results = measure(labels, assignments, seed=3)
    assert results["nmi_chance"] == pytest.approx(np.mean(reference), rel=1e-10)
    assert results["nmi"] == normalized_mutual_info_score(labels, assignments)
    assert results["ami"] == adjusted_mutual_info_score(labels, assignments)
    assert measure(labels, assignments, seed=4)["nmi_chance"] != results["nmi_chance"]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="codes: 2 assignments for 3 labels"):
        list(clustering("codes", np.arange(3), np.arange(2), generator=np.random.default_rng(0)))


def blobs(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    labels, generator = np.arange(n) % 4, np.random.default_rng(seed)
    centres = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0], [0, 0, 9]])
    return centres[labels] + generator.normal(size=(n, 3)), labels


def test_kmeans_recovers_blobs_whatever_their_scale() -> None:
    x, labels = blobs(80)
    found = kmeans(x * [1, 1e4, 1e-4] + [0, 5, 0], 4, restarts=5, seed=0)
    assert found.dtype == np.int64
    assert found.shape == (80,)
    assert measure(labels, found)["accuracy"] == 1


def test_kmeans_depends_on_its_seed_alone() -> None:
    x = np.random.default_rng(0).normal(size=(200, 3))
    assert (kmeans(x, 8, restarts=1, seed=1) == kmeans(x, 8, restarts=1, seed=1)).all()
    assert (kmeans(x, 8, restarts=1, seed=1) != kmeans(x, 8, restarts=1, seed=2)).any()


@pytest.mark.parametrize(("rows", "clusters"), [(np.zeros((5, 2)), 1), (np.eye(3), 3), (np.eye(3)[[0, 1, 1, 0, 1]], 2)])
def test_kmeans_of_few_distinct_rows(rows: np.ndarray, clusters: int, recwarn: pytest.WarningsRecorder) -> None:
    found = kmeans(rows, 10, restarts=2, seed=0)
    assert len(np.unique(found)) == clusters
    assert not recwarn.list
