"""Linear probe: logistic regression on frozen features."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from cplearn.evaluate.inputs import Array, standardise, to_float64, to_indices

TOLERANCE = 1e-5
"""Largest gradient of the mean loss at which L-BFGS stops; with scikit-learn's 1e-4 the accuracy still moves."""
MAX_ITERATIONS = 2000
"""Some two hundred do for the features of a backbone; raw pixels, thousands of correlated features, take far more."""


def linear_probe(
    train: Array, train_labels: Array, test: Array, test_labels: Array, *, c: float = 1.0
) -> Iterator[tuple[str, float]]:
    """Multinomial logistic regression on standardised features, fitted in float64 by L-BFGS; no random draw.

    train: (n, F), test: (m, F), with statistics for both taken from `train`; `c` is scikit-learn's C, the inverse of
    the L2 penalty on the weights against the summed loss. Yields `probe/accuracy` (test), `probe/train_accuracy` and
    `probe/converged`: 1, or 0 if L-BFGS gave up, and then the accuracies depend on where it stopped. A class that is
    missing in `train` is never predicted. Raises ValueError if `train` has only one class.
    """
    x_train, x_test = standardise(to_float64(train, "training features"), to_float64(test, "test features"))
    y_train, y_test = to_indices(train_labels), to_indices(test_labels)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model = LogisticRegression(C=c, tol=TOLERANCE, max_iter=MAX_ITERATIONS).fit(x_train, y_train)
    gave_up = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    yield "probe/accuracy", float(model.score(x_test, y_test))
    yield "probe/train_accuracy", float(model.score(x_train, y_train))
    yield "probe/converged", float(not gave_up)
