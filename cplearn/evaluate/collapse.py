"""Diagnostics of the four collapses, and criteria without labels by which a setting such as β may be chosen."""

import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from cplearn.evaluate.inputs import RESOLUTION, Array, standardise, to_float64, to_indices

RANKME_EPSILON = 1e-7
LIDAR_DELTA = 1e-4
MIXTURE_SAMPLES, MIXTURE_REPEATS = 10_000, 10
MIXTURE_FLOOR = 1e-6  # Added to every variance of a mixture: the entropy after a collapse is low, not minus infinity.
PAPER_WIDTH = 2048  # To so many dimensions the authors' script pads embeddings with zeros before it fits a mixture.
TINY = np.finfo(np.float64).tiny


def collapse(embeddings: Array, assignments: Array, n_codes: int) -> Iterator[tuple[str, float]]:
    """Collapse diagnostics of embeddings (n, f) and their codes (n,) in 0..n_codes-1, over a whole test set.

    Yields after collapse/ the numbers of the functions below, what is None left out, and embedding_std, 0 to 1: the
    mean standard deviation of the dimensions of L2-normalised embeddings, times sqrt(f) (Chen & He, "Exploring Simple
    Siamese Representation Learning", CVPR 2021, section 4.1).

    Raises NonFiniteFeatures; ValueError if the lengths differ or a code is out of range.

    >>> embeddings, codes = np.eye(4), np.array([0, 0, 2, 2])
    >>> results = dict(collapse(embeddings, codes, n_codes=3))
    >>> results["collapse/codes_used"], round(results["collapse/effective_rank"], 3)
    (2.0, 4.0)
    """
    z = to_float64(embeddings, "embeddings")
    unit = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), TINY)
    counts, codes = code_counts(assignments, n_codes), to_indices(assignments)
    if len(z) != len(codes):
        raise ValueError(f"{len(codes)} assignments for {len(z)} embeddings")
    results = {
        "codes_used": float((counts > 0).sum()),
        "code_perplexity": perplexity(counts),
        "intra_cluster_variance": intra_cluster_variance(unit, codes),
        "effective_rank": effective_rank(z),
        "alpha_req": alpha_req(z),
        "offdiag_covariance": offdiag_correlation(z),
        "embedding_std": float(unit.std(0).mean() * math.sqrt(z.shape[1])),
    }
    yield from ((f"collapse/{name}", value) for name, value in results.items() if value is not None)


def code_counts(assignments: Array, n_codes: int) -> np.ndarray:
    """How many images have each code, (n_codes,) int64; raises ValueError if a code is not in 0..n_codes-1.

    >>> code_counts(np.array([3, 0, 3]), 5)
    array([1, 0, 0, 2, 0])
    """
    codes = to_indices(assignments)
    if codes.min() < 0 or codes.max() >= n_codes:
        raise ValueError(f"codes run from {codes.min()} to {codes.max()}, outside of 0..{n_codes - 1}")
    return np.bincount(codes, minlength=n_codes)


def singular_values(embeddings: Array, *, centred: bool = True) -> np.ndarray:
    """Singular values of the covariance of embeddings (n, f), (f,) float64, descending.

    The embeddings are first scaled to [0, 1] by the minimum and maximum of the whole matrix; the covariance divides by
    n. Not `centred` they are those of the authors' script, EᵀE / n. All are 0 if the matrix holds one number only.

    >>> singular_values(np.array([[0.0, 1.0], [1.0, 1.0]]))
    array([0.25, 0.  ])
    """
    z = to_float64(embeddings, "embeddings")
    if z.max() - z.min() <= RESOLUTION * np.abs(z).max():
        return np.zeros(z.shape[1])
    scaled = _to_unit_interval(z)
    if centred:
        scaled -= scaled.mean(0)
    # The singular values of a symmetric matrix are its eigenvalues without sign.
    return np.sort(np.abs(np.linalg.eigvalsh(scaled.T @ scaled / len(z))))[::-1].copy()


def _to_unit_interval(z: np.ndarray) -> np.ndarray:
    """The matrix, scaled so that its least entry is 0 and its largest 1."""
    return (z - z.min()) / ((z.max() - z.min()) or 1.0)


def perplexity(counts: np.ndarray) -> float:
    """exp(-Σ p log p) of the frequencies p of `counts`: the number of codes that, used alike, have this entropy."""
    return _exponential_entropy(counts[counts > 0] / counts.sum())


def effective_rank(embeddings: np.ndarray) -> float:
    """RankMe of (n, f): exp(-Σ p_k log p_k), p_k = σ_k / Σ σ + ε, with the singular values σ of the uncentred matrix.

    Garrido et al., "RankMe", ICML 2023, Eq. 1. Its value depends on ε, here 1e-7 as in that paper for float32: p adds
    up to 1 + ε min(n, f), so that rank one gives slightly more than 1. 0 if all embeddings are 0.

    >>> round(effective_rank(np.ones((5, 4))), 3), round(effective_rank(np.eye(4)), 3)
    (1.0, 4.0)
    """
    # Squaring costs the σ below 1e-8 of the largest, which ε hides anyhow; it is many times faster than the SVD.
    sigma = np.sqrt(_gram_eigenvalues(embeddings).clip(min=0))
    return _exponential_entropy(sigma / sigma.sum() + RANKME_EPSILON) if sigma.sum() else 0.0


def alpha_req(embeddings: np.ndarray) -> float | None:
    """α of a power law λ_i ~ i^(-α) fitted to the eigenvalues λ_1 ≥ λ_2 ≥ ... of the covariance of (n, f).

    Agrawal et al., "α-ReQ: Assessing Representation Quality in Self-Supervised Learning by Measuring Eigenspectrum
    Decay", NeurIPS 2022. Least squares of log λ_i against log i, weighted by 1/i (as Stringer et al., Nature 2019,
    whose fit that paper uses). The range is ours: i from 11 to 100, or to min(n - 1, f) where that is smaller, and from
    1 where that leaves fewer than 30 ranks. Eigenvalues count as at least 1e-12 of the first. None if there are fewer
    than two, or if all are 0.
    """
    n, f = embeddings.shape
    last = min(100, n - 1, f)
    values = _gram_eigenvalues(embeddings - embeddings.mean(0))[::-1]
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

    Both are unbiased, divided by n - (codes in use) and by n - 1. So random codes give 1 on average, however many there
    are, and an image alone in its code has no influence. 0 if the total variance is 0; None if no two images have the
    same code.
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


def mixture_entropy(embeddings: Array, components: Sequence[int], *, seed: int) -> Iterator[tuple[str, float]]:
    """Differential entropy in nats of mixtures with diagonal covariances, fitted to embeddings (n, f) by EM.

    The paper's measure of intra-cluster collapse: -E[log p(x)] by Monte Carlo with 10,000 samples of the mixture, ten
    times. For each k of `components` yields the mean of the ten estimates, and with `_std` after its name their
    standard deviation: the error of the Monte Carlo, not of the one fit (k-means start, at most 100 iterations).

    collapse/entropy_<k> -- every embedding has length sqrt(f), so methods whose embeddings differ in scale compare.
    paper/entropy_<k> -- as in the authors' script: scaled to [0, 1] by the minimum and maximum of the whole matrix, and
        padded with zeros to 2,048 dimensions. Those have the floor of the variances, 1e-6, and so the entropy
        ½ log(2πe 1e-6) each; they are not fitted, only added.

    The fit depends on `seed` alone. Raises NonFiniteFeatures, and ValueError if there are fewer images than components.

    >>> draw = np.random.default_rng(0)
    >>> round(dict(mixture_entropy(draw.normal(size=(500, 2)), [1], seed=0))["collapse/entropy_1"], 1)
    2.8
    """
    z = to_float64(embeddings, "embeddings")
    unit = z * (math.sqrt(z.shape[1]) / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), TINY))
    padded = max(0, PAPER_WIDTH - z.shape[1])
    constant = padded * 0.5 * math.log(2 * math.pi * math.e * MIXTURE_FLOOR)
    for k in components:
        for prefix, scaled, added in (("collapse", unit, 0.0), ("paper", _to_unit_interval(z), constant)):
            estimates = _entropy_estimates(scaled, k, seed)
            yield f"{prefix}/entropy_{k}", float(np.mean(estimates)) + added
            yield f"{prefix}/entropy_{k}_std", float(np.std(estimates, ddof=1))


def _entropy_estimates(z: np.ndarray, k: int, seed: int) -> list[float]:
    """Ten Monte Carlo estimates of the entropy of one mixture of k components, fitted to (n, f)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, k])))
    mixture = GaussianMixture(k, covariance_type="diag", reg_covar=MIXTURE_FLOOR, random_state=random)
    # Threads of the k-means start would add up in the order in which they finish.
    with warnings.catch_warnings(), threadpool_limits(1, user_api="openmp"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(z)
    return [-mixture.score(mixture.sample(MIXTURE_SAMPLES)[0]) for _ in range(MIXTURE_REPEATS)]


def view_agreement(first: Array, second: Array) -> Iterator[tuple[str, float]]:
    """How much the codes of two views of an image say about each other; first, second: (n,) codes of the same images.

    Yields `select/view_information`: the mutual information of both codes in nats, less what it would be by chance
    for codes used as often (permutation model). It is at most the entropy of the codes, so few codes in use (cluster
    collapse) keep it low, and so do views that disagree. `select/view_ami`: the same over its largest value, between 0
    and 1; a handful of codes that never disagree reach 1 as well. Raises ValueError if the lengths differ.

    >>> codes = np.array([0, 0, 1, 1])
    >>> {name: round(value, 3) for name, value in view_agreement(codes, codes)}
    {'select/view_information': 0.462, 'select/view_ami': 1.0}
    """
    a, b = to_indices(first), to_indices(second)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} codes for two views of the same images")
    mutual, by_chance = _mutual_information(a, b)
    information = mutual - by_chance
    # As scikit-learn's adjusted_mutual_info_score, without computing the expectation, the costly part, once more.
    entropies = [math.log(perplexity(np.unique(codes, return_counts=True)[1])) for codes in (a, b)]
    most = sum(entropies) / 2 - by_chance
    yield "select/view_information", information
    yield "select/view_ami", information / most if most > RESOLUTION else 0.0


def _mutual_information(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The mutual information of two labellings (n,) in nats, and its mean over all pairs of labellings whose labels are
    used as often (Vinh, Epps and Bailey, "Information Theoretic Measures for Clusterings Comparison", JMLR 2010, Eq.
    24a).

    Both as scikit-learn has them, whose import would delay the first epoch of every worker by two seconds.
    """
    n = len(a)
    counted = [np.unique(labels, return_inverse=True, return_counts=True) for labels in (a, b)]
    (_, rows, row_sums), (_, columns, column_sums) = counted
    pairs, counts = np.unique(rows * len(column_sums) + columns, return_counts=True)
    products = row_sums[pairs // len(column_sums)] * column_sums[pairs % len(column_sums)]
    information = float((counts / n * np.log(n * counts / products)).sum())
    factorial = np.concatenate([[0.0], np.log(np.arange(1, n + 1)).cumsum()])  # Its logarithm.
    mean = 0.0
    for r, rows_alike in zip(*np.unique(row_sums, return_counts=True), strict=True):
        for c, columns_alike in zip(*np.unique(column_sums, return_counts=True), strict=True):
            k = np.arange(max(1, r + c - n), min(r, c) + 1)
            ways = factorial[r] + factorial[c] + factorial[n - r] + factorial[n - c] - factorial[n]
            ways = ways - factorial[k] - factorial[r - k] - factorial[c - k] - factorial[n - r - c + k]
            mean += rows_alike * columns_alike * float((k / n * np.log(n * k / (r * c)) * np.exp(ways)).sum())
    return information, float(mean)


def lidar(embeddings: np.ndarray) -> float:
    """LiDAR of embeddings (n, q, f), q augmented views of each of n images; between 1 and f, 0 if all images are alike.

    Thilak et al., "LiDAR: Sensing Linear Probing Performance in Joint Embedding SSL Architectures", ICLR 2024, Eqs.
    1-5: the effective rank of Σ_w^(-1/2) Σ_b Σ_w^(-1/2), with Σ_b the covariance of the images' means and Σ_w that of
    the views about their image's mean (divided by n and by nq), plus δ = 1e-4 on its diagonal. The embeddings are first
    divided by the root mean square of their entries, so that δ means the same for every method (our choice: the paper
    takes them as they are). Raises NonFiniteFeatures; ValueError if there is one view only.
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
    alike = values.sum() <= RESOLUTION**2 / LIDAR_DELTA
    return 0.0 if alike else _exponential_entropy(values / values.sum() + RANKME_EPSILON)


def _exponential_entropy(p: np.ndarray) -> float:
    return float(np.exp(-(p * np.log(p)).sum()))


def _gram_eigenvalues(x: np.ndarray) -> np.ndarray:
    """The eigenvalues of XᵀX, ascending; of XXᵀ, which has the same ones but for zeros, where that is smaller."""
    return np.linalg.eigvalsh(x.T @ x if x.shape[1] <= len(x) else x @ x.T)
