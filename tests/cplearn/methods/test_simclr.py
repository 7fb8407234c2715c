"""SimCLR's loss against a naive version of its equation, and its properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cplearn.methods import simclr
from method_checks import check_against_naive
from support import normal

N, D = 6, 5
each_temperature = pytest.mark.parametrize("tau", [0.5, 0.1])


def naive(views: np.ndarray, tau: float) -> float:
    """Eq. 1 and Algorithm 1 of the paper on views (V, n, d), loop by loop; the positives of an anchor are averaged."""
    count, n, _ = views.shape
    rows = [(v, i, views[v, i] / np.linalg.norm(views[v, i])) for v in range(count) for i in range(n)]
    total = terms = 0
    for v, i, anchor in rows:
        others = sum(math.exp(anchor @ z / tau) for w, j, z in rows if (w, j) != (v, i))
        for w, j, z in rows:
            if j == i and w != v:
                total -= math.log(math.exp(anchor @ z / tau) / others)
                terms += 1
    return total / terms


@each_temperature
@pytest.mark.parametrize("views", [2, 3])
def test_the_loss_matches_the_equation(views: int, tau: float) -> None:
    check_against_naive(lambda z: simclr.nt_xent(z, tau), lambda z: naive(z, tau), normal(views, N, D), rel=1e-12)


@each_temperature
def test_neither_order_nor_length_nor_rotation_matter(tau: float) -> None:
    z = normal(2, N, D)
    rotation = torch.linalg.qr(normal(D, D))[0]
    for changed in (z.flip(0), z.flip(1), 5 * z, z @ rotation):
        torch.testing.assert_close(simclr.nt_xent(changed, tau), simclr.nt_xent(z, tau))


@each_temperature
def test_collapse_costs_the_logarithm_of_the_other_views(tau: float) -> None:
    loss = simclr.nt_xent(torch.ones(2, N, D, dtype=torch.float64), tau)
    assert loss.item() == pytest.approx(math.log(2 * N - 1))


def test_opposite_images_are_better_than_collapse() -> None:
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64).expand(2, 2, 2)
    expected = -math.log(math.exp(2) / (math.exp(2) + 2 * math.exp(-2)))
    assert simclr.nt_xent(z, 0.5).item() == pytest.approx(expected)
