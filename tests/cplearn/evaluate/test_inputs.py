"""What all evaluators share: refusals, conversions, and that they change nothing outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cplearn.evaluate.clustering import clustering, kmeans
from cplearn.evaluate.collapse import collapse, singular_values
from cplearn.evaluate.inputs import NonFiniteFeatures, finite, standardise, to_indices
from cplearn.evaluate.probe import knn, linear_probe

LABELS = torch.arange(12) % 3


def features(seed: int = 0) -> torch.Tensor:
    return torch.randn(12, 4, generator=torch.Generator().manual_seed(seed))


EVALUATORS: dict[str, Callable[[torch.Tensor], Any]] = {
    "probe-train": lambda x: list(linear_probe(x, LABELS, features(1), LABELS)),
    "probe-test": lambda x: list(linear_probe(features(1), LABELS, x, LABELS)),
    "knn-train": lambda x: list(knn(x, LABELS, features(1), LABELS, neighbours=3)),
    "knn-test": lambda x: list(knn(features(1), LABELS, x, LABELS, neighbours=3)),
    "kmeans": lambda x: kmeans(x, 3, restarts=2, seed=0).tolist(),
    "collapse": lambda x: list(collapse(x, LABELS, 5)),
    "singular_values": lambda x: singular_values(x).tolist(),
    "clustering": lambda x: list(clustering("codes", LABELS, x.argmax(1), generator=np.random.default_rng(0))),
}
ON_FEATURES = [name for name in EVALUATORS if name != "clustering"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ON_FEATURES)
def test_features_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    x = features()
    x[3, 1] = x[5, 0] = x[5, 2] = bad
    with pytest.raises(NonFiniteFeatures, match="2 of 12 rows hold NaN or infinity"):
        EVALUATORS[name](x)


@pytest.mark.parametrize("name", EVALUATORS)
def test_same_inputs_same_bits_and_no_trace(name: str) -> None:
    x = features()
    kept, threads = x.clone(), torch.get_num_threads()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = EVALUATORS[name](x)
    assert EVALUATORS[name](x) == first
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("name", ON_FEATURES)
def test_arrays_gradients_and_inference_tensors_are_accepted(name: str) -> None:
    plain = EVALUATORS[name](features())
    with torch.inference_mode():
        inference = features()
    assert EVALUATORS[name](inference) == plain
    assert EVALUATORS[name](features().requires_grad_()) == plain
    assert EVALUATORS[name](features().numpy()) == plain


@pytest.mark.parametrize("shape", [(4,), (0, 3), (3, 0), (2, 2, 2)])
def test_features_must_be_a_filled_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected a filled matrix"):
        finite(torch.zeros(shape), "features")


@pytest.mark.parametrize("values", [torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64), np.array([], dtype=np.int64)])
def test_labels_must_be_a_filled_vector_of_integers(values: Any) -> None:
    with pytest.raises(ValueError, match="expected a filled vector of integers"):
        to_indices(values)


def test_standardise_takes_statistics_of_the_first_and_drops_constants() -> None:
    noise = 1 + 1e-7 * np.array([0.0, 1.0, 0.0, 1.0])
    train = np.stack([[1.0, 3.0, 1.0, 3.0], [5.0] * 4, [0.0] * 4, noise], axis=1)
    test = np.array([[4.0, 6.0, 7.0, 2.0]])
    own, other = standardise(train, test)
    np.testing.assert_allclose(own, [[-1, 0, 0, 0], [1, 0, 0, 0]] * 2)
    np.testing.assert_allclose(other, [[2, 0, 0, 0]])
