"""Barlow Twins against a naive version of its equations, and its properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cplearn.methods import barlow_twins
from support import batch_of, build_method, normal

K, N, D = 2, 7, 5


def naive(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Eq. 1 and 2 of the paper on one pair of views (n, d), loop by loop."""
    a, b = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (a, b))
    on = off = 0.0
    for i in range(D):
        for j in range(D):
            c = sum(a[m, i] * b[m, j] for m in range(N)) / N
            on, off = (on + (1 - c) ** 2, off) if i == j else (on, off + c**2)
    return on, off


def test_terms_match_the_equations() -> None:
    z = normal(K, 2, N, D) * 3 + 1
    got = barlow_twins.losses(z)
    for k in range(K):
        assert [term[k].item() for term in got] == pytest.approx(naive(*z[k].numpy()), rel=1e-12)


def test_the_loss_weighs_its_terms_for_each_member() -> None:
    method = build_method("barlow_twins", [{"off_diagonal": 0.5, "scale": 2.0}, {}], 6)
    loss, terms = method(batch_of(normal(K, 2, N, 6)))
    weights = torch.tensor([[2.0, 1.0], [0.1, 0.1 * 0.05]], dtype=torch.float64)
    torch.testing.assert_close(loss, (weights * torch.stack([terms["diagonal"], terms["off_diagonal"]], 1)).sum(1))


def test_neither_order_of_views_nor_scale_nor_shift_matter() -> None:
    z = normal(K, 2, N, D)
    before = torch.stack(barlow_twins.losses(z))
    for changed in (z.flip(1), z[:, :, torch.randperm(N, generator=torch.Generator().manual_seed(0))], 40 * z + 3):
        torch.testing.assert_close(torch.stack(barlow_twins.losses(changed)), before, rtol=1e-4, atol=1e-5)


def test_the_optimum_is_equal_views_of_uncorrelated_dimensions() -> None:
    q, _ = torch.linalg.qr(normal(8, 8) - normal(8, 8).mean(0))
    columns = torch.linalg.qr(q[:, :3] - q[:, :3].mean(0))[0] * 100
    diagonal, rest = barlow_twins.losses(columns.expand(1, 2, 8, 3))
    assert diagonal.item() < 1e-8
    assert rest.item() < 1e-8


def test_of_three_views_all_pairs_count() -> None:
    z = normal(1, 3, N, D)
    each = [torch.stack(barlow_twins.losses(z[:, list(pair)])) for pair in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(torch.stack(barlow_twins.losses(z)), torch.stack(each).mean(0))
