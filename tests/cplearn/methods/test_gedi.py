"""GEDI's two terms against naive versions, and their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cplearn.methods import gedi
from support import batch_of, build_method, normal

K, N, C, F = 2, 6, 4, 5


def naive(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Invariance and uniformity of logits (n, c) of two views in one order, loop by loop."""
    p, target = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (first, second))
    agree = -sum(target[i, j] * math.log(p[i, j]) for i in range(N) for j in range(C)) / N
    return agree, -sum(math.log(sum(p[i, j] for i in range(N)) / N) for j in range(C))


@pytest.mark.parametrize("symmetric", [True, False])
def test_terms_match_the_equations(symmetric: bool) -> None:
    logits = 2 * normal(K, 2, N, C)
    got = torch.stack(gedi.losses(logits, symmetric), 1)
    for k in range(K):
        first, second = logits[k].numpy()
        orders = [naive(first, second), naive(second, first)] if symmetric else [naive(first, second)]
        assert got[k].tolist() == pytest.approx(np.mean(orders, axis=0), rel=1e-12)


def test_the_symmetric_loss_alone_does_not_depend_on_the_order_of_views() -> None:
    logits = normal(K, 2, N, C)
    for symmetric in (True, False):
        there, back = (torch.stack(gedi.losses(x, symmetric)) for x in (logits, logits.flip(1)))
        assert torch.allclose(there, back) == symmetric


def test_uniformity_is_least_for_equal_use_and_finite_for_unused_clusters() -> None:
    sure = 1e4 * torch.eye(C, dtype=torch.float64)[torch.arange(2 * C) % C].expand(1, 2, 2 * C, C)
    invariance, uniformity = gedi.losses(sure, True)
    assert uniformity.item() == pytest.approx(C * math.log(C))
    assert invariance.item() == pytest.approx(0, abs=1e-9)
    collapsed = (1e4 * torch.eye(C, dtype=torch.float64)[:1]).expand(1, 2, N, C).clone().requires_grad_()
    _, worse = gedi.losses(collapsed, True)
    worse.sum().backward()
    assert math.isfinite(worse.item()) and worse > uniformity  # noqa: PT018
    assert collapsed.grad.isfinite().all()
    assert (collapsed.grad[..., 1:] < 0).all()


def test_the_loss_weighs_its_terms_for_each_member_and_codes_are_the_largest_logits() -> None:
    settings = {"hidden_dim": 8, "codes": C}
    method = build_method("gedi", [{**settings, "beta": 3.0}, {**settings, "temperature": 2.0}], F)
    x = normal(K, 2, N, F)
    logits = torch.stack([method.projector(view) for view in x.unbind(1)], dim=1)
    logits = logits / torch.tensor([1.0, 2.0], dtype=torch.float64)[:, None, None, None]
    invariance, uniformity = gedi.losses(logits, True)
    expected = 0.5 * (uniformity + torch.tensor([3.0, 50.0]) * invariance)
    torch.testing.assert_close(method(batch_of(x))[0], expected)
    method.eval()
    assert torch.equal(method.codes(method.embed(x[:, 0])), method.projector(x[:, 0]).argmax(-1))
