"""Projectors, cosine classifiers and moving averages of weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cplearn.methods import parts
from method_checks import check_against_naive
from support import normal


def test_a_projector_has_norms_and_no_biases_or_biases_and_no_norms() -> None:
    def layers(projector: parts.MLP) -> list[tuple[type, tuple[int, ...] | None, bool]]:
        described = []
        for layer in [*projector.hidden, projector.last]:
            weight = getattr(layer, "weight", None)
            bias = getattr(layer, "bias", None) is not None
            described.append((type(layer), None if weight is None else tuple(weight.shape), bias))
        return described

    assert layers(parts.MLP([5, 7, 4])) == [
        (nn.Linear, (7, 5), False),
        (nn.BatchNorm1d, (7,), True),
        (nn.ReLU, None, False),
        (nn.Linear, (4, 7), False),
    ]
    assert layers(parts.MLP([5, 7, 4], norm=False)) == [
        (nn.Linear, (7, 5), True),
        (nn.GELU, None, False),
        (nn.Linear, (4, 7), True),
    ]


def test_a_cosine_classifier_depends_on_directions_only() -> None:
    classifier = parts.Cosine(5, 9)
    x = torch.nn.functional.normalize(normal(6, 5).float(), dim=-1)
    before = classifier(x)
    torch.testing.assert_close(before, torch.cosine_similarity(x[:, None], classifier.weight, dim=-1))
    classifier.weight.data.mul_(7)
    torch.testing.assert_close(classifier(x), before)


def test_views_are_normalised_one_at_a_time() -> None:
    x = normal(2, 10, 3)
    x[1] += 5
    normed = parts.each_view(nn.BatchNorm1d(3).double(), x)
    torch.testing.assert_close(normed.mean(1), torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("views", [2, 4])
def test_the_cosine_is_that_of_every_target_with_every_other_view(views: int) -> None:
    def naive(predictions: np.ndarray, targets: np.ndarray) -> float:
        cosines = [
            p @ t / np.linalg.norm(p) / np.linalg.norm(t)
            for a, ts in enumerate(targets)
            for b, ps in enumerate(predictions)
            for p, t in zip(ps, ts, strict=True)
            if a != b
        ]
        return float(np.mean(cosines))

    targets = normal(2, 6, 5, seed=1)
    check_against_naive(
        lambda x: parts.cosine(x, targets), lambda x: naive(x, targets.numpy()), 3 * normal(views, 6, 5)
    )


@pytest.mark.parametrize("rate", [0.9, 1.0])
def test_every_parameter_follows_and_buffers_are_left_alone(rate: float) -> None:
    teacher, student = parts.MLP([3, 4, 2]).double(), parts.MLP([3, 4, 2]).double()
    for i, parameter in enumerate([*teacher.parameters(), *student.parameters()]):
        parameter.data = normal(*parameter.shape, seed=i)
    student.hidden[1].running_mean.fill_(3)
    before = [p.detach().clone() for p in teacher.parameters()]
    parts.follow(teacher, student, rate)
    for old, new, weight in zip(before, teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(new, rate * old + (1 - rate) * weight, rtol=1e-12, atol=1e-14)
        assert torch.equal(new, old) == (rate == 1)
    assert not teacher.hidden[1].running_mean.any()
