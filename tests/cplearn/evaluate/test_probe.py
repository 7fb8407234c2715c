"""Linear probe: against a pipeline of scikit-learn, and its invariances."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import top_k_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cplearn.evaluate import probe
from cplearn.evaluate.inputs import NonFiniteFeatures
from cplearn.evaluate.probe import gradient_probe, linear_probe

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
    # A third of the pixels: Newton's method takes seconds for all of them.
    x, x_test = x[:, ::3], x_test[:, ::3]
    # Another solver, Newton's method, must reach the same optimum.
    solver = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-6)
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


def test_top_five_where_there_are_more_than_five_classes(digits: Split) -> None:
    x, y, x_test, y_test = digits
    results = dict(linear_probe(*digits, c=1e-4))
    reference = make_pipeline(StandardScaler(), LogisticRegression(C=1e-4, tol=1e-8)).fit(x.astype(np.float64), y)
    expected = top_k_accuracy_score(y_test, reference.predict_proba(x_test.astype(np.float64)), k=5)
    assert results["probe/top5"] == pytest.approx(expected, abs=1e-12)
    assert results["probe/accuracy"] < results["probe/top5"] < 1
    few, few_test = y < 5, y_test < 5
    assert "probe/top5" not in dict(linear_probe(x[few], y[few], x_test[few_test], y_test[few_test]))


def tensors(digits: Split) -> tuple[torch.Tensor, ...]:
    """Pixels in [0, 1], in float64."""
    x, y, x_test, y_test = (torch.from_numpy(array) for array in digits)
    return x.double() / 16, y, x_test.double() / 16, y_test


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def solo_learn(
    x: torch.Tensor, y: torch.Tensor, generator: torch.Generator, epochs: int, decay: list[int]
) -> torch.nn.Linear:
    """SGD at 0.1 with momentum, batches of 256 without the incomplete last one, by torch's own modules."""
    start = (2 * torch.rand(65, 10, generator=generator) - 1) / 8
    layer = torch.nn.Linear(64, 10).double()
    layer.load_state_dict({"weight": start[:64].T, "bias": start[64]})
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, decay, gamma=0.1)
    for _ in range(epochs):
        rows = torch.randperm(len(x), generator=generator)[:256]
        optimizer.zero_grad()
        F.cross_entropy(layer(x[rows]), y[rows]).backward()
        optimizer.step()
        schedule.step()
    return layer


def test_sgd_is_the_protocol_of_solo_learn(digits: Split) -> None:
    train, y, test, y_test = tensors(digits)
    results = dict(gradient_probe("sgd", train, y, test, y_test, classes=10, generator=generator(0)))
    layer = solo_learn(train, y, generator(0), 100, [60, 80])
    scores = layer(test).detach().numpy()
    assert results["probe_sgd/accuracy"] == pytest.approx((scores.argmax(1) == y_test.numpy()).mean(), abs=1e-9)
    assert results["probe_sgd/top5"] == pytest.approx(top_k_accuracy_score(y_test, scores, k=5), abs=1e-9)
    fitted = (layer(train).argmax(1) == y).double().mean()
    assert results["probe_sgd/train_accuracy"] == pytest.approx(float(fitted), abs=1e-9)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_a_gradient_probe_depends_on_its_generator_alone(
    digits: Split, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "EPOCHS", 20)
    first, again, other = (
        dict(gradient_probe(name, *tensors(digits), classes=10, generator=generator(seed))) for seed in (3, 3, 9)
    )
    assert first == again != other
    assert 0.5 < first[f"probe_{name}/accuracy"] < 1


def test_a_gradient_probe_fits_the_augmented_features_of_each_epoch() -> None:
    x, y, epochs = torch.eye(3).repeat(4, 1), torch.arange(3).repeat(4), []

    def turned(epoch: int) -> torch.Tensor:
        epochs.append(epoch)
        return x.roll(1, 1)

    results = dict(gradient_probe("sgd", x, y, x, y, classes=3, generator=generator(0), augmented=turned))
    assert results == {"probe_sgd/accuracy": 0.0, "probe_sgd/train_accuracy": 0.0}
    assert epochs == list(range(100))


def test_a_gradient_probe_of_few_images_uses_them_all() -> None:
    x, y = torch.eye(3).repeat(4, 1), torch.arange(3).repeat(4)
    results = dict(gradient_probe("sgd", x, y, x, y, classes=3, generator=generator(0)))
    assert results == {"probe_sgd/accuracy": 1.0, "probe_sgd/train_accuracy": 1.0}


def test_features_that_are_not_finite_are_refused() -> None:
    x, y = torch.full((4, 2), torch.nan), torch.arange(4)
    with pytest.raises(NonFiniteFeatures, match="training features: 4 of 4 rows"):
        dict(gradient_probe("sgd", x, y, x, y, classes=4, generator=generator(0)))
