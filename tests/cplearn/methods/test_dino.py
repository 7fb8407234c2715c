"""DINO against a naive version of its loss; centre, teacher, temperatures and frozen prototypes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cplearn.methods import parts
from cplearn.methods.base import Progress
from method_checks import check_against_naive
from support import batch_of, build_method, normal

N, C, F = 6, 4, 5
SMALL = {"hidden_dim": 8, "embedding_dim": 5, "codes": C}


def softmax(row: np.ndarray) -> np.ndarray:
    return np.exp(row - row.max()) / np.exp(row - row.max()).sum()


def naive(student: np.ndarray, teacher: np.ndarray, centre: np.ndarray, tau_s: float, tau_t: float) -> float:
    """Algorithm 1 of the paper for outputs (V, n, c) and (G, n, c), loop by loop."""
    total = terms = 0
    for a, outputs in enumerate(teacher):
        for b, predictions in enumerate(student):
            if a == b:
                continue
            for i in range(N):
                t, s = softmax((outputs[i] - centre) / tau_t), softmax(predictions[i] / tau_s)
                total -= sum(t[j] * math.log(s[j]) for j in range(C))
                terms += 1
    return total / terms


@pytest.mark.parametrize("views", [2, 4])
def test_the_cross_entropy_and_its_gradient_match_the_algorithm(views: int) -> None:
    outputs, centre = normal(2, N, C, seed=1), np.zeros(C)
    check_against_naive(
        lambda x: parts.cross_entropy((x / 0.3).log_softmax(-1), (outputs / 0.2).softmax(-1)),
        lambda x: naive(x, outputs.numpy(), centre, 0.3, 0.2),
        normal(views, N, C),
    )


@pytest.mark.parametrize(("tau_s", "tau_t", "rate"), [(0.1, 0.04, 0.9), (0.3, 0.2, 0.5)])
@pytest.mark.parametrize("views", [2, 4])
def test_the_loss_and_the_centre_match_the_algorithm(views: int, tau_s: float, tau_t: float, rate: float) -> None:
    changes = {"student_temperature": tau_s, "teacher_temperature": tau_t, "centre_momentum": rate}
    method = build_method("dino", {**SMALL, **changes}, F)
    centre = method.centre.clone()
    for step in range(3):
        batch = batch_of(normal(views, N, F, seed=step), progress=Progress(step, 3, 2))
        with torch.no_grad():
            student, teacher = method.student(batch.features), method.teacher(batch.teacher)
        loss, _ = method(batch)
        expected = naive(student.numpy(), teacher.numpy(), centre.numpy(), tau_s, tau_t)
        assert loss.item() == pytest.approx(expected, rel=1e-10)
        centre = rate * centre + (1 - rate) * teacher.flatten(0, 1).mean(0)
        torch.testing.assert_close(method.centre, centre, rtol=1e-12, atol=0)
    assert centre.abs().min() > 0


def test_the_loss_is_least_where_the_student_says_what_the_teacher_says() -> None:
    t = normal(N, C).softmax(-1).expand(2, -1, -1)
    entropy = -(t * t.log()).sum(-1).mean()
    torch.testing.assert_close(parts.cross_entropy(t.log(), t), entropy)
    assert parts.cross_entropy(normal(2, N, C, seed=1).log_softmax(-1), t) > entropy


def test_the_teacher_starts_as_the_student_and_takes_no_gradient() -> None:
    method = build_method("dino", SMALL, F)
    for weight, average in zip(method.student.parameters(), method.teacher.parameters(), strict=True):
        assert torch.equal(weight, average)
    method(batch_of(normal(2, N, F)))[0].backward()
    assert all(p.grad is not None for p in method.student.parameters())
    assert all(p.grad is None for p in method.teacher.parameters())


def test_an_update_freezes_prototypes_in_the_first_epoch_and_lets_the_teacher_follow() -> None:
    method = build_method("dino", {**SMALL, "momentum": 0.9}, F)
    optimizer = torch.optim.AdamW(method.student.parameters(), lr=0.1, weight_decay=0.5)
    for step in range(4):
        progress = Progress(step, 2, 2)
        optimizer.zero_grad()
        method(batch_of(normal(2, N, F, seed=step), progress=progress))[0].backward()
        before = [p.detach().clone() for p in method.teacher.parameters()]
        prototypes = method.student.prototypes.weight.detach().clone()
        method.before_update(progress)
        optimizer.step()
        method.after_update(progress)
        assert torch.equal(method.student.prototypes.weight, prototypes) == (step < 2)
        m = 1 - (1 - 0.9) * (1 + math.cos(math.pi * step / 4)) / 2
        for old, new, weight in zip(before, method.teacher.parameters(), method.student.parameters(), strict=True):
            torch.testing.assert_close(new, m * old + (1 - m) * weight, rtol=1e-12, atol=1e-14)
    # Frozen steps do not count as steps of the optimiser, whose first updates are corrected for their bias.
    assert optimizer.state[method.student.prototypes.weight]["step"] == 2


@pytest.mark.parametrize(
    ("warmup", "last", "expected"),
    [
        (0, 0.08, [0.08] * 4),
        (1, 0.08, [0.04, 0.08, 0.08, 0.08]),
        (3, 0.08, [0.04, 0.06, 0.08, 0.08]),
        (3, 0.04, [0.04] * 4),
    ],
)
def test_the_teachers_temperature_rises_epoch_by_epoch(warmup: int, last: float, expected: list[float]) -> None:
    method = build_method("dino", {**SMALL, "teacher_temperature": last, "warmup_epochs": warmup}, F)
    assert [method.temperature(Progress(2 * epoch + 1, 2, 4)) for epoch in range(4)] == pytest.approx(expected)


def test_codes_are_the_prototypes_of_the_teacher_with_the_largest_centred_output() -> None:
    method, x = build_method("dino", SMALL, F), normal(N, F)
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.zero_()  # the student has no part in it
    plain = method.codes(method.embed(x))
    assert torch.equal(plain, method.teacher(x).argmax(-1))
    method.centre[plain[0]] += 10
    assert not (method.codes(method.embed(x)) == plain[0]).any()


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.96), (30, 0.98), (15, 0.96 + 0.04 * (1 - math.cos(math.pi / 4)) / 2)]
)
def test_the_rate_of_the_teacher_rises_along_half_a_cosine(step: int, expected: float) -> None:
    rates = [build_method("dino", {**SMALL, "momentum": m}, F).momentum(Progress(step, 6, 10)) for m in (0.96, 1.0)]
    assert rates == pytest.approx([expected, 1.0], rel=1e-12)
