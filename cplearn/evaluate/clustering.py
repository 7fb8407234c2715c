"""Agreement of a clustering with the labels, and k-means as a clustering that every method has.

NMI rises with the number of clusters by chance alone, so it is never yielded alone: beside it stand the NMI of shuffled
assignments, AMI and ARI (both about 0 at chance) and the number of clusters in use.
"""

from collections.abc import Iterator

import numpy as np
from threadpoolctl import threadpool_limits

from cplearn.evaluate.inputs import Array, standardise, to_float64, to_indices

SHUFFLES = 10


def clustering(
    prefix: str, labels: Array, assignments: Array, *, generator: np.random.Generator
) -> Iterator[tuple[str, float]]:
    """Compare clusters with classes; labels and assignments: (n,) integers of any range.

    Yields after `prefix`/ the metrics that docs/evaluation.md defines: nmi and ami (arithmetic means of entropies),
    nmi_chance, ari, accuracy and clusters. One single cluster tells nothing, so nmi, ami and ari are 0, but 1 if there
    is also only one class. Raises ValueError if the lengths differ.

    >>> labels, codes = np.array([0, 0, 1, 1]), np.array([7, 7, 3, 3])
    >>> dict(clustering("codes", labels, codes, generator=np.random.default_rng(0)))["codes/ami"]
    1.0
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    # Numbered from 0 without gaps, so that the cost depends on the clusters in use alone.
    classes, clusters = (np.unique(to_indices(x), return_inverse=True)[1] for x in (labels, assignments))
    if len(classes) != len(clusters):
        raise ValueError(f"{prefix}: {len(clusters)} assignments for {len(classes)} labels")
    yield f"{prefix}/nmi", float(normalized_mutual_info_score(classes, clusters))
    yield f"{prefix}/nmi_chance", _shuffled_nmi(classes, clusters, generator)
    yield f"{prefix}/ami", float(adjusted_mutual_info_score(classes, clusters))
    yield f"{prefix}/ari", float(adjusted_rand_score(classes, clusters))
    table = contingency_matrix(classes, clusters)
    yield f"{prefix}/accuracy", float(table[linear_sum_assignment(table, maximize=True)].sum() / len(classes))
    yield f"{prefix}/clusters", float(clusters.max() + 1)


def kmeans(features: Array, n_clusters: int, *, restarts: int, seed: int) -> np.ndarray:
    """k-means++ and Lloyd's iterations on standardised features (n, F); returns the cluster of each row, (n,) int64.

    Of `restarts` runs the one with the lowest inertia counts. There are fewer than `n_clusters` clusters where there
    are fewer distinct rows.

    >>> clusters = kmeans(np.array([[0.0], [9.0], [0.1], [9.1]]), 2, restarts=1, seed=0)
    >>> bool(clusters[0] == clusters[2] != clusters[1])
    True
    """
    from sklearn.cluster import KMeans

    (x,) = standardise(to_float64(features, "features"))
    distinct = len(np.unique(x, axis=0))
    model = KMeans(min(n_clusters, distinct), n_init=restarts, random_state=seed)
    # Several threads would add their parts of the centres in the order in which they finish.
    with threadpool_limits(1, user_api="openmp"):
        return model.fit(x).labels_.astype(np.int64)


def _shuffled_nmi(classes: np.ndarray, clusters: np.ndarray, generator: np.random.Generator) -> float:
    """Mean NMI of permuted clusters, many times faster than by scikit-learn.

    With S(x) = Σ x log x over a table of counts, NMI = 2 (S(joint) - S(classes) - S(clusters) + S(n)) / (2 S(n) -
    S(classes) - S(clusters)). A permutation changes S(joint) alone, and its table has at most n filled cells.
    """

    def s(cells: np.ndarray) -> float:
        counts = np.unique(cells, return_counts=True)[1]
        return float((counts * np.log(counts)).sum())

    s_n = len(classes) * np.log(len(classes))
    marginals = s(classes) + s(clusters)
    if marginals == 2 * s_n:  # one class and one cluster
        return 1.0
    cells = classes * (clusters.max() + 1)
    joint = np.mean([s(cells + generator.permutation(clusters)) for _ in range(SHUFFLES)])
    return float(max(0.0, 2 * (joint - marginals + s_n) / (2 * s_n - marginals)))
