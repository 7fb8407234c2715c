"""Entropy of Gaussian mixtures fitted to embeddings: low where the embeddings of a cluster are all alike."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from cplearn.evaluate.inputs import Array, to_float64

SAMPLES, REPEATS = 10_000, 10
FLOOR = 1e-6
"""Added to every variance (scikit-learn's `reg_covar`): the entropy of collapsed embeddings is low, not minus
infinity."""


def mixture_entropy(embeddings: Array, components: Sequence[int], *, seed: int) -> Iterator[tuple[str, float]]:
    """Differential entropy in nats of mixtures with diagonal covariances, fitted to embeddings (n, f) by EM.

    The paper's measure of intra-cluster collapse: -E[log p(x)] by Monte Carlo with 10,000 samples of the mixture, ten
    times. For each k of `components` yields `gmm/entropy_<k>`, the mean of the ten estimates, and
    `gmm/entropy_<k>_std`, their standard deviation: the error of the Monte Carlo, not of the fit, which is one (k-means
    start, at most 100 iterations). Embeddings are scaled to length sqrt(f) first, since the entropy of methods whose
    embeddings differ in scale could not be compared (our choice; the paper names no scaling).

    The fit depends on `seed` alone. Raises NonFiniteFeatures, and ValueError if there are fewer images than components.

    >>> draw = np.random.default_rng(0)
    >>> round(dict(mixture_entropy(draw.normal(size=(500, 2)), [1], seed=0))["gmm/entropy_1"], 1)
    2.8
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    z = to_float64(embeddings, "embeddings")
    length = np.linalg.norm(z, axis=1, keepdims=True)
    z = z * (math.sqrt(z.shape[1]) / np.maximum(length, np.finfo(np.float64).tiny))
    for k in components:
        if k > len(z):
            raise ValueError(f"a mixture of {k} components cannot be fitted to {len(z)} embeddings")
        random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, k])))
        mixture = GaussianMixture(k, covariance_type="diag", reg_covar=FLOOR, random_state=random)
        # Threads of the k-means start would add up in the order in which they finish.
        with warnings.catch_warnings(), threadpool_limits(1, user_api="openmp"):
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(z)
        estimates = [-mixture.score(mixture.sample(SAMPLES)[0]) for _ in range(REPEATS)]
        yield f"gmm/entropy_{k}", float(np.mean(estimates))
        yield f"gmm/entropy_{k}_std", float(np.std(estimates, ddof=1))
