"""SimDINO against a naive version of its equations and of the authors' code; its coding rate against lightly's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from cplearn.methods import simdino
from cplearn.methods.base import Batch
from method_checks import check_against_naive
from support import START, batch_of, build_method, needs_module, normal

N, D, F = 6, 4, 5
SMALL = {"hidden_dim": 8, "embedding_dim": D}


def naive_rate(z: np.ndarray, epsilon: float) -> float:
    """½ log det(I + d/ε² Cov) by the eigenvalues of Cov = (1/n) Σ_i z_i z_iᵀ."""
    covariance = sum(np.outer(row, row) for row in z) / len(z)
    return sum(math.log(1 + z.shape[1] / epsilon**2 * value) for value in np.linalg.eigvalsh(covariance)) / 2


def unit(views: np.ndarray) -> np.ndarray:
    return views / np.linalg.norm(views, axis=-1, keepdims=True)


def naive(student: np.ndarray, teacher: np.ndarray, gamma: float, epsilon: float, smooth: bool) -> float:
    """The loss of heads' outputs (V, n, d) and (2, n, d), loop by loop."""
    student, teacher = unit(student), unit(teacher)
    distances = [
        sum((s - t) ** 2) / 2
        for a in range(2)
        for b in range(len(student))
        for s, t in zip(student[b], teacher[a], strict=True)
        if a != b
    ]
    expanded = [(student[a] + teacher[a]) / 2 if smooth else student[a] for a in range(2)]
    return float(np.mean(distances)) - gamma * float(np.mean([naive_rate(z, epsilon) for z in expanded]))


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize(("gamma", "epsilon"), [(None, 0.5), (0.3, 0.2)])
@pytest.mark.parametrize("views", [2, 4])
def test_the_loss_and_its_gradient_match_the_equations(
    views: int, gamma: float | None, epsilon: float, smooth: bool
) -> None:
    method = build_method("simdino", {**SMALL, "gamma": gamma, "epsilon": epsilon, "smooth": smooth}, D)
    method.student = method.teacher = nn.Identity()
    teacher, weight = normal(2, N, D, seed=1), (D + N) / (D * N) if gamma is None else gamma

    def loss(x: torch.Tensor) -> torch.Tensor:
        return method(Batch(x, torch.zeros(N, dtype=torch.long), START, teacher))[0]

    check_against_naive(loss, lambda x: naive(x, teacher.numpy(), weight, epsilon, smooth), normal(views, N, D))


@pytest.mark.parametrize("smooth", [False, True])
def test_with_their_epsilon_it_is_the_authors_code_but_for_a_constant(smooth: bool) -> None:
    """Their eps is our ε²; and they subtract a mean cosine where we add a half squared distance."""
    eps, views = 0.5, 4
    method = build_method("simdino", {**SMALL, "epsilon": math.sqrt(eps), "smooth": smooth}, D)
    method.student = method.teacher = nn.Identity()
    s, t = (torch.from_numpy(unit(normal(v, N, D, seed=v).numpy())) for v in (views, 2))
    similar = torch.stack([(s[b] * t[a]).sum(-1).mean() for a in range(2) for b in range(views) if a != b]).sum()
    similar = similar / (2 * views - 2)
    expansion = 0.0
    for z in (s[:2] + t) / 2 if smooth else s[:2]:
        expansion += torch.linalg.cholesky(torch.eye(D) + D / (N * eps) * z.T @ z).diagonal().log().sum() / 2
    expected = -similar - expansion * (D + N) / (D * N)
    loss, terms = method(Batch(s, torch.zeros(N, dtype=torch.long), START, t))
    assert loss.item() == pytest.approx(1 + expected.item(), rel=1e-10)
    assert terms["coding_rate"].item() == pytest.approx(expansion.item(), rel=1e-10)


def test_the_coding_rate_is_largest_where_all_directions_are_used_and_least_where_one_is() -> None:
    spread = torch.eye(D, dtype=torch.float64)[None]
    collapsed = spread[:, :1].expand(1, D, D)
    assert simdino.coding_rate(spread, 0.5).item() == pytest.approx(D / 2 * math.log(1 + 4), rel=1e-12)
    assert simdino.coding_rate(collapsed, 0.5).item() == pytest.approx(math.log(1 + D * 4) / 2, rel=1e-12)
    assert simdino.coding_rate(spread, 0.5) > simdino.coding_rate(collapsed, 0.5)


def test_the_teacher_starts_as_the_student_takes_no_gradient_and_is_what_is_embedded() -> None:
    method, x = build_method("simdino", {**SMALL, "momentum": 0.9}, F), normal(N, F)
    for weight, average in zip(method.student.parameters(), method.teacher.parameters(), strict=True):
        assert torch.equal(weight, average)
    method(batch_of(normal(2, N, F)))[0].backward()
    assert all(p.grad is not None for p in method.student.parameters())
    assert all(p.grad is None for p in method.teacher.parameters())
    before = method.embed(x)
    torch.testing.assert_close(before.norm(dim=-1), torch.ones(N, dtype=torch.float64))
    with torch.no_grad():
        for weight in method.student.parameters():
            weight.add_(1)
    assert torch.equal(method.embed(x), before)
    method.after_update(START)
    assert not torch.isclose(method.embed(x), before).all()


@needs_module("lightly")
def test_lightly_has_the_same_coding_rate() -> None:
    """The total coding rate of EMP-SSL (Tong et al. 2023), whose ε is our ε²."""
    from lightly.loss.emp_ssl_loss import tcr_loss

    z = normal(2, N, D).requires_grad_()
    ours, theirs = simdino.coding_rate(z, 0.5), tcr_loss(z, 0.25)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(rate, z, retain_graph=True)[0] for rate in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
