"""Linear probe: against a pipeline of scikit-learn, and its invariances."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cplearn.evaluate import linear_probe, probe

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def digits() -> Split:
    """300 digits to train, 300 to test; some pixels are constant."""
    x, y = load_digits(return_X_y=True)
    return x[:300].astype(np.float32), y[:300], x[300:600].astype(np.float32), y[300:600]


def blobs(n: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(n) % 3
    return 6 * np.eye(3)[labels] + 0.3 * generator.normal(size=(n, 3)), labels


def test_separable_classes_are_told_apart() -> None:
    generator = np.random.default_rng(0)
    results = dict(linear_probe(*blobs(60, generator), *blobs(30, generator)))
    assert results == {"probe/accuracy": 1.0, "probe/train_accuracy": 1.0, "probe/converged": 1.0}


@pytest.mark.parametrize("c", [1e-4, 1.0])
def test_agrees_with_a_pipeline(digits: Split, c: float) -> None:
    x, y, x_test, y_test = digits
    # Another solver, Newton's method, must reach the same optimum.
    solver = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-8)
    reference = make_pipeline(StandardScaler(), solver).fit(x.astype(np.float64), y)
    results = dict(linear_probe(x, y, x_test, y_test, c=c))
    # A pixel that is constant in training is 0 here, and merely centred in the pipeline, where its weight is 0.
    assert results["probe/accuracy"] == reference.score(x_test, y_test)
    assert results["probe/train_accuracy"] == reference.score(x, y)
    assert 0.1 < results["probe/accuracy"] < 1


def test_scale_and_shift_of_features_do_not_matter(digits: Split) -> None:
    x, y, x_test, y_test = digits
    generator = np.random.default_rng(0)
    scale, shift = np.exp(generator.normal(size=64) * 3), 10 * generator.normal(size=64)
    moved = dict(linear_probe(x * scale + shift, y, x_test * scale + shift, y_test))
    assert moved == dict(linear_probe(x, y, x_test, y_test))


def test_a_class_missing_on_either_side() -> None:
    generator = np.random.default_rng(0)
    (x, y), (x_test, y_test) = blobs(60, generator), blobs(30, generator)
    assert dict(linear_probe(x, y, x_test[y_test < 2], y_test[y_test < 2]))["probe/accuracy"] == 1
    unseen = dict(linear_probe(x[y < 2], y[y < 2], x_test, y_test))
    assert unseen["probe/train_accuracy"] == 1
    assert unseen["probe/accuracy"] == pytest.approx(2 / 3)


def test_collapsed_features_give_the_largest_class() -> None:
    labels, same = np.array([0, 1, 1, 2]), np.full((4, 5), 0.1, dtype=np.float32)
    results = dict(linear_probe(same, labels, same, labels))
    assert results == {"probe/accuracy": 0.5, "probe/train_accuracy": 0.5, "probe/converged": 1.0}


def test_giving_up_is_reported(
    digits: Split, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(probe, "MAX_ITERATIONS", 2)
    assert dict(linear_probe(*digits))["probe/converged"] == 0
    assert not recwarn.list
