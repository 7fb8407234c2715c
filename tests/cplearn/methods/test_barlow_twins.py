"""Barlow Twins against a naive version of its equations, and its properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cplearn.methods import barlow_twins
from method_checks import check_against_naive
from support import batch_of, build_method, normal

N, D = 7, 5


def naive(views: np.ndarray) -> tuple[float, float]:
    """The two terms of Eq. 1 of the paper, with the correlations of Eq. 2, on two views (2, n, d), loop by loop."""
    a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in views)
    on = off = 0.0
    for i in range(D):
        for j in range(D):
            c = sum(a[m, i] * b[m, j] for m in range(N)) / N
            on, off = (on + (1 - c) ** 2, off) if i == j else (on, off + c**2)
    return on, off


def terms(z: Tensor) -> Tensor:
    return torch.stack(barlow_twins.redundancy(z))


@pytest.mark.parametrize("term", [0, 1])
def test_terms_match_the_equations(term: int) -> None:
    check_against_naive(lambda z: terms(z)[term], lambda z: naive(z)[term], normal(2, N, D) * 3 + 1, rel=1e-12)


@pytest.mark.parametrize("weights", [{}, {"off_diagonal": 0.5, "scale": 2.0}])
def test_the_loss_weighs_its_terms(weights: dict) -> None:
    loss, logged = build_method("barlow_twins", weights)(batch_of(normal(2, N, 6)))
    scale, off_diagonal = weights.get("scale", 0.1), weights.get("off_diagonal", 0.05)
    torch.testing.assert_close(loss, scale * (logged["diagonal"] + off_diagonal * logged["off_diagonal"]))


def test_neither_order_of_views_nor_scale_nor_shift_matter() -> None:
    z = normal(2, N, D)
    for changed in (z.flip(0), z[:, torch.randperm(N, generator=torch.Generator().manual_seed(0))], 40 * z + 3):
        torch.testing.assert_close(terms(changed), terms(z), rtol=1e-4, atol=1e-5)


def test_the_optimum_is_equal_views_of_uncorrelated_dimensions() -> None:
    q, _ = torch.linalg.qr(normal(8, 8) - normal(8, 8).mean(0))
    columns = torch.linalg.qr(q[:, :3] - q[:, :3].mean(0))[0] * 100
    assert terms(columns.expand(2, 8, 3)).max() < 1e-8


def test_of_three_views_all_pairs_count() -> None:
    z = normal(3, N, D)
    pairs = [terms(z[list(pair)]) for pair in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(terms(z), torch.stack(pairs).mean(0))
