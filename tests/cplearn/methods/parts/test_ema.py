"""Moving averages of weights."""

from __future__ import annotations

import math

import pytest
import torch

from cplearn.methods.base import Progress
from cplearn.methods.parts import ema, heads
from support import normal


def test_every_member_follows_at_its_own_rate() -> None:
    teacher, student = heads.MLP(2, [3, 4, 2]).double(), heads.MLP(2, [3, 4, 2]).double()
    for i, parameter in enumerate([*teacher.parameters(), *student.parameters()]):
        parameter.data = normal(*parameter.shape, seed=i)
    student.hidden[1].running_mean.fill_(3)
    before = [p.detach().clone() for p in teacher.parameters()]
    rates = torch.tensor([0.9, 1.0], dtype=torch.float64)
    ema.follow(teacher, student, rates)
    for old, new, other in zip(before, teacher.parameters(), student.parameters(), strict=True):
        half = len(old) // 2
        torch.testing.assert_close(new[:half], 0.9 * old[:half] + 0.1 * other[:half], rtol=1e-12, atol=0)
        assert torch.equal(new[half:], old[half:])
    assert torch.equal(teacher.hidden[1].running_mean, torch.zeros(8, dtype=torch.float64))


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.96), (30, 0.98), (15, 0.96 + 0.04 * (1 - math.cos(math.pi / 4)) / 2)]
)
def test_the_rate_rises_along_half_a_cosine(step: int, expected: float) -> None:
    rate = ema.cosine(torch.tensor([0.96, 1.0], dtype=torch.float64), Progress(step, 6, 10))
    assert rate.tolist() == pytest.approx([expected, 1.0], rel=1e-12)
