"""Self-Classifier against a naive version of its equations, and its properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cplearn.methods import self_classifier
from support import batch_of, build_method, normal

K, N, C = 2, 8, 4
ROW, COLUMN = (torch.tensor(taus, dtype=torch.float64) for taus in ([0.1, 0.5], [0.05, 0.3]))


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


@pytest.mark.parametrize("views", [2, 4])
def test_the_loss_matches_the_equations(views: int) -> None:
    logits = normal(K, views, N, C).tanh()
    got = self_classifier.cross_entropy(logits, ROW, COLUMN)
    expected = [naive(logits[k].numpy(), ROW[k].item(), COLUMN[k].item()) for k in range(K)]
    assert got.tolist() == pytest.approx(expected, rel=1e-10)


def test_targets_sum_to_one_and_predictions_to_the_share_of_each_class() -> None:
    logits = normal(K, N, C)
    torch.testing.assert_close(self_classifier.targets(logits, COLUMN).sum(2), torch.ones(K, N, dtype=torch.float64))
    shares = self_classifier.log_predictions(logits, ROW).exp().sum(1)
    torch.testing.assert_close(shares, torch.full((K, C), N / C, dtype=torch.float64))


def test_neither_order_of_views_nor_of_images_nor_of_classes_matter() -> None:
    logits = normal(K, 2, N, C)
    before = self_classifier.cross_entropy(logits, ROW, COLUMN)
    for axis in (1, 2, 3):
        torch.testing.assert_close(self_classifier.cross_entropy(logits.flip(axis), ROW, COLUMN), before)


def test_the_optimum_is_one_class_an_image_and_all_classes_alike() -> None:
    balanced = 50 * torch.eye(C, dtype=torch.float64).repeat(N // C, 1).expand(K, 2, N, C)
    assert self_classifier.cross_entropy(balanced, ROW, COLUMN).abs().max() < 1e-9
    collapsed = torch.zeros_like(balanced)
    collapsed[..., 0] = 50
    torch.testing.assert_close(
        self_classifier.cross_entropy(collapsed, ROW, COLUMN), torch.full((K,), math.log(C), dtype=torch.float64)
    )


def test_codes_are_the_classes_of_the_classifier() -> None:
    method = build_method("self_classifier", [{"hidden_dim": 8, "embedding_dim": 5, "codes": C}] * K, 6)
    method(batch_of(normal(K, 2, N, 6)))
    directions = torch.nn.functional.normalize(method.classifier.weight.detach(), dim=1).transpose(1, 2)
    assert torch.equal(method.codes(directions), torch.arange(C).expand(K, C))
