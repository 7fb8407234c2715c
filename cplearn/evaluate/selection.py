"""Criteria without labels, by which a setting such as β may be chosen: none looks at a label or at a test image."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from cplearn.evaluate.collapse import RANKME_EPSILON, perplexity
from cplearn.evaluate.inputs import RESOLUTION, Array, to_float64, to_indices

LIDAR_DELTA = 1e-4


def view_agreement(first: Array, second: Array) -> Iterator[tuple[str, float]]:
    """How much the codes of two views of an image say about each other; first, second: (n,) codes of the same images.

    Yields `select/view_information`: the mutual information of both codes in nats, less what it would be by chance
    for codes used as often (expected mutual information of the permutation model). It is what one view's code says
    about the other's: at most the entropy of the codes, so few codes in use (cluster collapse) keep it low, and so do
    views that disagree. 0 for codes that ignore the image, and for a single one.
    `select/view_ami`: the same over its largest value, between 0 and 1. A handful of codes that never disagree reach
    1 as well: it measures agreement alone, and does not see cluster collapse.

    Raises ValueError if the lengths differ.

    >>> codes = np.array([0, 0, 1, 1])
    >>> {name: round(value, 3) for name, value in view_agreement(codes, codes)}
    {'select/view_information': 0.462, 'select/view_ami': 1.0}
    """
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

    a, b = to_indices(first), to_indices(second)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} codes for two views of the same images")
    table = contingency_matrix(a, b, sparse=True, dtype=np.int64)
    by_chance = expected_mutual_information(table, len(a))
    information = float(mutual_info_score(None, None, contingency=table) - by_chance)
    # As scikit-learn's adjusted_mutual_info_score, without computing the expectation, the costly part, once more.
    most = (_entropy(a) + _entropy(b)) / 2 - by_chance
    yield "select/view_information", information
    yield "select/view_ami", information / most if most > RESOLUTION else 0.0


def _entropy(codes: np.ndarray) -> float:
    return math.log(perplexity(np.unique(codes, return_counts=True)[1]))


def lidar(embeddings: np.ndarray) -> float:
    """LiDAR of embeddings (n, q, f), q augmented views of each of n images; between 1 and f.

    Thilak et al., "LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures", ICLR 2024, Eqs.
    1-5: the effective rank of Σ_w^(-1/2) Σ_b Σ_w^(-1/2), with Σ_b the covariance of the images' means and Σ_w that of
    the views about their image's mean (divided by n and by nq), plus δ = 1e-4 on its diagonal; exp(-Σ p_i log p_i),
    p_i = λ_i / Σ λ + ε, ε = 1e-7. Unlike RankMe it counts only directions in which images differ more than the views
    of one image do. The embeddings are first divided by the root mean square of their entries, so that δ means the same
    for every method (our choice: the paper takes them as they are). 0 if all images are alike.

    Raises NonFiniteFeatures; ValueError if there is one view only.
    """
    import scipy.linalg

    n, q, f = embeddings.shape
    if q < 2:
        raise ValueError("LiDAR needs at least two views of each image")
    z = to_float64(embeddings.reshape(n * q, f), "embeddings of augmented views").reshape(n, q, f)
    z = z / (np.sqrt((z**2).mean()) or 1.0)
    means = z.mean(1)
    about, within = means - means.mean(0), (z - means[:, None]).reshape(n * q, f)
    between_views = within.T @ within / (n * q) + LIDAR_DELTA * np.eye(f)
    # The generalised eigenvalues are those of the whitened matrix.
    values = scipy.linalg.eigh(about.T @ about / n, between_views, eigvals_only=True).clip(min=0)
    if values.sum() <= RESOLUTION**2 / LIDAR_DELTA:
        return 0.0
    p = values / values.sum() + RANKME_EPSILON
    return float(np.exp(-(p * np.log(p)).sum()))
