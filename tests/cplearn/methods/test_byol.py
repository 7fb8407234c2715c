"""BYOL against a naive version of its loss and against lightly's; its teacher and the stop-gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cplearn.methods import byol
from cplearn.methods.base import Batch, Progress
from method_checks import check_against_naive
from support import START, batch_of, build_method, needs_module, normal

N, D, F = 6, 4, 5
SMALL = {"hidden_dim": 8, "embedding_dim": D}


def naive(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Eq. 2 of the paper plus the same with the views exchanged, mean over the batch, loop by loop."""
    total = 0.0
    for a, b in ((0, 1), (1, 0)):
        for p, t in zip(predictions[a], targets[b], strict=True):
            total += sum((p / math.sqrt(p @ p) - t / math.sqrt(t @ t)) ** 2) / N
    return total


def test_the_loss_and_its_gradient_match_the_equation() -> None:
    targets = normal(2, N, D, seed=1)
    check_against_naive(lambda x: byol.distance(x, targets), lambda x: naive(x, targets.numpy()), normal(2, N, D))


def test_predictions_of_the_student_meet_projections_of_the_teacher() -> None:
    method, features, seen = build_method("byol", SMALL, F), normal(2, N, F), normal(2, N, F, seed=1)
    with torch.no_grad():
        for weight in method.teacher.parameters():
            weight.mul_(1.5).add_(0.1)
    loss, _ = method(Batch(features, torch.zeros(N, dtype=torch.long), START, seen))
    predictions = torch.stack([method.predictor(method.projector(view)) for view in features])
    targets = torch.stack([method.teacher(view) for view in seen])
    assert loss.item() == pytest.approx(naive(predictions.detach().numpy(), targets.numpy()), rel=1e-10)


def test_the_teacher_starts_as_the_projector_takes_no_gradient_and_follows_ever_slower() -> None:
    method = build_method("byol", {**SMALL, "momentum": 0.9}, F)
    method(batch_of(normal(2, N, F)))[0].backward()
    assert all(p.grad is not None for part in (method.projector, method.predictor) for p in part.parameters())
    assert all(p.grad is None for p in method.teacher.parameters())
    for step in range(4):
        progress = Progress(step, 2, 2)
        before = [p.detach().clone() for p in method.teacher.parameters()]
        if step == 0:
            assert all(torch.equal(*pair) for pair in zip(before, method.projector.parameters(), strict=True))
        with torch.no_grad():
            for weight in method.projector.parameters():
                weight.add_(1)
        method.after_update(progress)
        m = 1 - (1 - 0.9) * (1 + math.cos(math.pi * step / 4)) / 2
        for old, new, weight in zip(before, method.teacher.parameters(), method.projector.parameters(), strict=True):
            torch.testing.assert_close(new, m * old + (1 - m) * weight, rtol=1e-12, atol=1e-14)


def test_embedded_is_what_the_students_projector_says() -> None:
    method, x = build_method("byol", SMALL, F).eval(), normal(N, F)
    with torch.no_grad():
        for weight in method.teacher.parameters():
            weight.zero_()
    assert torch.equal(method.embed(x), method.projector(x))
    assert torch.equal(method.codes(method.embed(x)), method.projector(x).argmax(-1))


@needs_module("lightly")
def test_lightly_has_the_same_loss() -> None:
    """Without the constant: half of each order's negative cosine, as its BYOL example adds them up."""
    from lightly.loss import NegativeCosineSimilarity

    p, t = normal(2, N, D).requires_grad_(), normal(2, N, D, seed=1)
    criterion = NegativeCosineSimilarity()
    theirs = 0.5 * (criterion(p[0], t[1]) + criterion(p[1], t[0]))
    ours = byol.distance(p, t)
    torch.testing.assert_close(ours, 4 + 4 * theirs, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, p, retain_graph=True)[0] for loss in (ours, 4 * theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)
