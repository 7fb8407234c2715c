"""Diagnostics of the four collapses: representation, dimensional, cluster and intra-cluster."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from cplearn.evaluate.inputs import RESOLUTION, Array, standardise, to_float64, to_indices

RANKME_EPSILON = 1e-7


def collapse(embeddings: Array, assignments: Array, n_codes: int) -> Iterator[tuple[str, float]]:
    """Collapse diagnostics of embeddings (n, f) and their codes (n,) in 0..n_codes-1, over a whole test set.

    Yields, each after collapse/, with the collapse in which it goes to its first value:
    codes_used -- 1 to n_codes (cluster): codes that at least one image has.
    code_perplexity -- 1 to n_codes (cluster): exponential of the entropy of the codes' usage.
    effective_rank -- 1 to f (dimensional): see `effective_rank`.
    alpha_req -- large to about 1 or less (dimensional): see `alpha_req`. Not yielded if fewer than 2 eigenvalues are
        there to be fitted.
    offdiag_covariance -- 1 to 0 (dimensional): see `offdiag_correlation`.
    intra_cluster_variance -- 0 to about 1 (intra-cluster): see `intra_cluster_variance`. Not yielded if no two images
        have the same code.
    embedding_std -- 0 to 1 (representation): mean standard deviation of the dimensions of L2-normalised embeddings,
        times sqrt(f) (Chen & He, "Exploring Simple Siamese Representation Learning", CVPR 2021, section 4.1).

    Raises NonFiniteFeatures; ValueError if the lengths differ or a code is out of range.

    >>> embeddings, codes = np.eye(4), np.array([0, 0, 2, 2])
    >>> results = dict(collapse(embeddings, codes, n_codes=3))
    >>> results["collapse/codes_used"], round(results["collapse/effective_rank"], 3)
    (2.0, 4.0)
    """
    z = to_float64(embeddings, "embeddings")
    unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    counts, codes = code_counts(assignments, n_codes), to_indices(assignments)
    if len(z) != len(codes):
        raise ValueError(f"{len(codes)} assignments for {len(z)} embeddings")
    yield "collapse/codes_used", float((counts > 0).sum())
    yield "collapse/code_perplexity", perplexity(counts)
    within = intra_cluster_variance(unit, codes)
    if within is not None:
        yield "collapse/intra_cluster_variance", within
    yield "collapse/effective_rank", effective_rank(z)
    slope = alpha_req(z)
    if slope is not None:
        yield "collapse/alpha_req", slope
    yield "collapse/offdiag_covariance", offdiag_correlation(z)
    yield "collapse/embedding_std", float(unit.std(0).mean() * math.sqrt(z.shape[1]))


def code_counts(assignments: Array, n_codes: int) -> np.ndarray:
    """How many images have each code, (n_codes,) int64; raises ValueError if a code is not in 0..n_codes-1.

    >>> code_counts(np.array([3, 0, 3]), 5)
    array([1, 0, 0, 2, 0])
    """
    codes = to_indices(assignments)
    if codes.min() < 0 or codes.max() >= n_codes:
        raise ValueError(f"codes run from {codes.min()} to {codes.max()}, outside of 0..{n_codes - 1}")
    return np.bincount(codes, minlength=n_codes)


def singular_values(embeddings: Array) -> np.ndarray:
    """Singular values of the covariance of embeddings (n, f), (f,) float64, descending: the paper's spectrum.

    The embeddings are first scaled to [0, 1] by the minimum and maximum of the whole matrix; the covariance divides by
    n. Values below about 1e-16 of the first are rounding. All are 0 if the matrix holds one number only.
    """
    z = to_float64(embeddings, "embeddings")
    span = z.max() - z.min()
    if span <= RESOLUTION * np.abs(z).max():
        return np.zeros(z.shape[1])
    centred = (z - z.mean(0)) / span
    # The singular values of a symmetric matrix are its eigenvalues without sign.
    return np.sort(np.abs(np.linalg.eigvalsh(centred.T @ centred / len(z))))[::-1].copy()


def perplexity(counts: np.ndarray) -> float:
    """exp(-Σ p log p) of the frequencies p of `counts`: the number of codes that, used alike, have this entropy."""
    p = counts[counts > 0] / counts.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def effective_rank(embeddings: np.ndarray) -> float:
    """RankMe of (n, f): exp(-Σ p_k log p_k), p_k = σ_k / Σ σ + ε, with the singular values σ of the uncentred matrix.

    Garrido et al., "RankMe", ICML 2023, Eq. 1. Its value depends on ε, here 1e-7 as in that paper for float32: p adds
    up to 1 + ε min(n, f), so that rank one gives slightly more than 1. 0 if all embeddings are 0.

    >>> round(effective_rank(np.ones((5, 4))), 3), round(effective_rank(np.eye(4)), 3)
    (1.0, 4.0)
    """
    n, f = embeddings.shape
    gram = embeddings.T @ embeddings if f <= n else embeddings @ embeddings.T
    # Squaring costs the σ below 1e-8 of the largest, which ε hides anyhow; it is many times faster than the SVD.
    sigma = np.sqrt(np.linalg.eigvalsh(gram).clip(min=0))
    if sigma.sum() == 0:
        return 0.0
    p = sigma / sigma.sum() + RANKME_EPSILON
    return float(np.exp(-(p * np.log(p)).sum()))


def alpha_req(embeddings: np.ndarray) -> float | None:
    """α of a power law λ_i ~ i^(-α) fitted to the eigenvalues λ_1 ≥ λ_2 ≥ ... of the covariance of (n, f).

    Agrawal et al., "α-ReQ: Assessing Representation Quality in Self-Supervised Learning by Measuring Eigenspectrum
    Decay", NeurIPS 2022; they find good representations near α = 1, and large α where dimensions have collapsed.
    Least squares of log λ_i against log i, weighted by 1/i (as Stringer et al., Nature 2019, whose fit that paper
    uses). The range is ours: i from 11 to 100, or to min(n - 1, f) where that is smaller, and from 1 where that leaves
    fewer than 30 ranks. Eigenvalues count as at least 1e-12 of the first. None if there are fewer than two, or if all
    are 0.
    """
    n, f = embeddings.shape
    last = min(100, n - 1, f)
    centred = embeddings - embeddings.mean(0)
    gram = centred.T @ centred if f <= n else centred @ centred.T
    values = np.linalg.eigvalsh(gram)[::-1]
    if last < 2 or values[0] <= RESOLUTION**2 * (embeddings**2).sum():
        return None
    rank = np.arange(11 if last >= 40 else 1, last + 1)
    spectrum = np.log(np.maximum(values[rank - 1], 1e-12 * values[0]))
    # polyfit squares its weights.
    return float(-np.polyfit(np.log(rank), spectrum, 1, w=rank**-0.5)[0])


def offdiag_correlation(embeddings: np.ndarray) -> float:
    """Mean absolute correlation of two different dimensions of (n, f), over all pairs of dimensions that vary.

    Free of scale, where the covariance itself is not. 0 if all are uncorrelated, 1 if they lie on a line; 1 also if
    fewer than two dimensions vary, so that a collapsed network never looks decorrelated.
    """
    (z,) = standardise(embeddings)
    z = z[:, z.any(0)]
    varying = z.shape[1]
    if varying < 2:
        return 1.0
    correlation = np.abs(z.T @ z / len(z))
    np.fill_diagonal(correlation, 0)
    return float(correlation.sum() / (varying * (varying - 1)))


def intra_cluster_variance(unit: np.ndarray, codes: np.ndarray) -> float | None:
    """Variance within codes relative to the total variance of L2-normalised embeddings (n, f).

    Both are unbiased: squared distances to the code's mean, summed over all images, over n - (codes in use); squared
    distances to the mean over n - 1. So random codes give 1 on average, however many there are, and an image alone in
    its code, which says nothing about the variance within, has no influence. 0 if the total variance is 0; None if no
    two images have the same code.
    """
    n = len(unit)
    order = np.argsort(codes, kind="stable")
    _, first, counts = np.unique(codes[order], return_index=True, return_counts=True)
    if len(counts) == n:
        return None
    centred = (unit - unit.mean(0))[order]
    total = (centred**2).sum() / (n - 1)
    if total <= RESOLUTION**2:
        return 0.0
    means = np.add.reduceat(centred, first, axis=0) / counts[:, None]
    within = ((centred - np.repeat(means, counts, axis=0)) ** 2).sum() / (n - len(counts))
    return float(within / total)
