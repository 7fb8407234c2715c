"""GEDI's two terms against naive versions, and their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cplearn.methods import gedi
from method_checks import check_against_naive
from support import batch_of, build_method, normal

N, C, F = 6, 4, 5


def naive(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Invariance and uniformity of logits (n, c) of two views in one order, loop by loop."""
    p, target = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (first, second))
    agree = -sum(target[i, j] * math.log(p[i, j]) for i in range(N) for j in range(C)) / N
    return agree, -sum(math.log(sum(p[i, j] for i in range(N)) / N) for j in range(C))


def terms(logits: Tensor, symmetric: bool = True) -> Tensor:
    return torch.stack(gedi.invariance_and_uniformity(logits.log_softmax(-1), symmetric))


@pytest.mark.parametrize("term", [0, 1])
@pytest.mark.parametrize("symmetric", [True, False])
def test_terms_match_the_equations(symmetric: bool, term: int) -> None:
    def expected(views: np.ndarray) -> float:
        first, second = views
        orders = [naive(first, second), naive(second, first)] if symmetric else [naive(first, second)]
        return np.mean(orders, axis=0)[term]

    check_against_naive(lambda x: terms(x, symmetric)[term], expected, 2 * normal(2, N, C), rel=1e-12)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_symmetric_loss_alone_does_not_depend_on_the_order_of_views(symmetric: bool) -> None:
    logits = normal(2, N, C)
    assert torch.allclose(terms(logits, symmetric), terms(logits.flip(0), symmetric)) == symmetric


def test_uniformity_is_least_for_equal_use_and_finite_for_unused_clusters() -> None:
    sure = 1e4 * torch.eye(C, dtype=torch.float64)[torch.arange(2 * C) % C].expand(2, 2 * C, C)
    invariance, uniformity = terms(sure)
    assert uniformity.item() == pytest.approx(C * math.log(C))
    assert invariance.item() == pytest.approx(0, abs=1e-9)
    collapsed = (1e4 * torch.eye(C, dtype=torch.float64)[:1]).expand(2, N, C).clone().requires_grad_()
    worse = terms(collapsed)[1]
    worse.backward()
    assert uniformity < worse < math.inf
    assert collapsed.grad.isfinite().all()
    assert (collapsed.grad[..., 1:] < 0).all()


@pytest.mark.parametrize(("beta", "temperature"), [(3.0, 1.0), (50.0, 2.0)])
def test_the_loss_weighs_its_terms_and_codes_are_the_largest_logits(beta: float, temperature: float) -> None:
    settings = {"hidden_dim": 8, "codes": C, "beta": beta, "temperature": temperature}
    method, x = build_method("gedi", settings, F), normal(2, N, F)
    invariance, uniformity = terms(torch.stack([method.projector(view) for view in x]) / temperature)
    torch.testing.assert_close(method(batch_of(x))[0], 0.5 * (uniformity + beta * invariance))
    method.eval()
    assert torch.equal(method.codes(method.embed(x[0])), method.projector(x[0]).argmax(-1))
