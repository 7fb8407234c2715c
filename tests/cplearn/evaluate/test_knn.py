"""k-NN: against a loop over single images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cplearn.evaluate.probe import _nearest, knn


def naive(train: np.ndarray, y: np.ndarray, test: np.ndarray, k: int, temperature: float) -> list[int]:
    predicted = []
    for x in test:
        near = []
        for i, z in enumerate(train):
            similarity = float(np.dot(x, z) / (np.linalg.norm(x) * np.linalg.norm(z)))
            near.append((-similarity, i))
        votes: dict[int, float] = {}
        for negative, i in sorted(near)[:k]:
            votes[y[i]] = votes.get(y[i], 0.0) + math.exp(-negative / temperature)
        predicted.append(max(sorted(votes), key=lambda label: votes[label]))
    return predicted


def accuracy(*args: object, **options: float) -> float:
    return dict(knn(*args, **options))["knn/accuracy"]  # type: ignore[arg-type]


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (5, 0.07), (20, 0.5), (60, 0.1)])
@pytest.mark.parametrize("block", [2**25, 60 * 7])
def test_agrees_with_a_loop(k: int, temperature: float, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cplearn.evaluate.probe.SIMILARITIES", block)
    generator = np.random.default_rng(0)
    train, test, y = generator.normal(size=(60, 5)), generator.normal(size=(40, 5)), generator.integers(0, 4, 60)
    expected = naive(train, y, test, k, temperature)
    # Against its own predictions the accuracy is 1; each label changed costs one image.
    assert accuracy(train, y, test, np.array(expected), neighbours=k, temperature=temperature) == 1
    expected[0] = (expected[0] + 1) % 4
    assert accuracy(train, y, test, np.array(expected), neighbours=k, temperature=temperature) == 1 - 1 / 40


def test_the_nearest_weighs_more_than_the_majority() -> None:
    train, y = torch.tensor([[1.0, 0.1], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1, 1])
    test = torch.tensor([[1.0, 0.0]])
    assert accuracy(train, y, test, torch.tensor([0]), neighbours=3, temperature=0.07) == 1
    assert accuracy(train, y, test, torch.tensor([1]), neighbours=3, temperature=100.0) == 1


@pytest.mark.parametrize(("k", "winner"), [(1, 2), (2, 1), (4, 1), (5, 0), (6, 0)])
def test_ties_go_to_the_first_images_and_then_to_the_lowest_class(k: int, winner: int) -> None:
    y = torch.tensor([2, 1, 1, 0, 0, 0])
    assert accuracy(torch.ones(6, 3), y, torch.ones(2, 3), torch.tensor([winner] * 2), neighbours=k) == 1


def test_only_the_border_is_contested() -> None:
    train = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y, test = torch.tensor([0, 1, 2, 3]), torch.tensor([[1.0, 0.0]])
    values, index = _nearest(test @ train.T, 2)
    assert sorted(index[0].tolist()) == [1, 2]
    assert values[0].tolist() == [(test @ train.T)[0, i] for i in index[0].tolist()]
    assert accuracy(train, y, test, torch.tensor([2]), neighbours=2) == 1


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_does_not_matter_and_a_low_temperature_does_not_overflow(scale: float) -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 4, generator=draw), torch.arange(30) % 3
    assert accuracy(x * scale, y, x, y, neighbours=5, temperature=1e-4) == 1


def test_few_images_missing_classes_and_zero_features() -> None:
    x, y = torch.eye(3), torch.tensor([0, 1, 2])
    assert accuracy(x, y, x[:2], y[:2], neighbours=20) == 1
    assert accuracy(x, y, x, torch.tensor([0, 1, 7])) == pytest.approx(2 / 3)
    assert accuracy(torch.zeros(3, 2), y, torch.zeros(3, 2), y, neighbours=3) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="3 and 2 labels for 3 and 3 images"):
        accuracy(x, y, x, y[:2])
