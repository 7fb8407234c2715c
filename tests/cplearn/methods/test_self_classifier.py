"""Self-Classifier against a naive version of its equations, and its properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cplearn.methods import self_classifier
from method_checks import check_against_naive
from support import build_method, normal

N, C = 8, 4
ROW, COLUMN = 0.5, 0.3


def naive(views: np.ndarray, row: float, column: float, global_views: int = 2) -> float:
    """The loss of section 3 for logits (V, n, c): p(x|y), p(y|x) and the cross-entropy, loop by loop."""
    total, pairs = 0.0, 0
    for a, target in enumerate(views):
        x_given_y = np.exp(target / column) / np.exp(target / column).sum(0)
        for b, predicted in enumerate(views):
            if a == b or (a >= global_views and b >= global_views):
                continue
            y_given_x = np.exp(predicted / row) / np.exp(predicted / row).sum(1, keepdims=True)
            for i in range(N):
                for y in range(C):
                    t = x_given_y[i, y] / sum(x_given_y[i])
                    total -= t * math.log(N / C * y_given_x[i, y] / sum(y_given_x[:, y])) / N
            pairs += 1
    return total / pairs


@pytest.mark.parametrize(("row", "column"), [(0.1, 0.05), (0.5, 0.3)])
@pytest.mark.parametrize("views", [2, 4])
def test_the_loss_matches_the_equations(views: int, row: float, column: float) -> None:
    check_against_naive(
        lambda x: self_classifier.cross_entropy(x, row, column),
        lambda x: naive(x, row, column),
        normal(views, N, C).tanh(),
    )


def test_targets_sum_to_one_and_predictions_to_the_share_of_each_class() -> None:
    logits = normal(N, C)
    torch.testing.assert_close(self_classifier.targets(logits, COLUMN).sum(1), torch.ones(N, dtype=torch.float64))
    shares = self_classifier.log_predictions(logits, ROW).exp().sum(0)
    torch.testing.assert_close(shares, torch.full((C,), N / C, dtype=torch.float64))


def loss(logits: Tensor) -> Tensor:
    return self_classifier.cross_entropy(logits, ROW, COLUMN)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neither_order_of_views_nor_of_images_nor_of_classes_matter(axis: int) -> None:
    logits = normal(2, N, C)
    torch.testing.assert_close(loss(logits.flip(axis)), loss(logits))


def test_the_optimum_is_one_class_an_image_and_all_classes_alike() -> None:
    balanced = 50 * torch.eye(C, dtype=torch.float64).repeat(N // C, 1).expand(2, N, C)
    assert loss(balanced).abs() < 1e-9
    collapsed = torch.zeros_like(balanced)
    collapsed[..., 0] = 50
    assert loss(collapsed).item() == pytest.approx(math.log(C))


def test_codes_are_the_classes_of_the_classifier() -> None:
    method = build_method("self_classifier", {"hidden_dim": 8, "embedding_dim": 5, "codes": C})
    directions = torch.nn.functional.normalize(method.classifier.weight.detach(), dim=1)
    assert torch.equal(method.codes(directions), torch.arange(C))
