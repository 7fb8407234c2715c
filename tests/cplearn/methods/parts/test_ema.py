"""Moving averages of weights."""

from __future__ import annotations

import math

import pytest
import torch

from cplearn.methods.base import Progress
from cplearn.methods.parts import ema, heads
from support import normal


@pytest.mark.parametrize("rate", [0.9, 1.0])
def test_every_parameter_follows_and_buffers_are_left_alone(rate: float) -> None:
    teacher, student = heads.MLP([3, 4, 2]).double(), heads.MLP([3, 4, 2]).double()
    for i, parameter in enumerate([*teacher.parameters(), *student.parameters()]):
        parameter.data = normal(*parameter.shape, seed=i)
    student.hidden[1].running_mean.fill_(3)
    before = [p.detach().clone() for p in teacher.parameters()]
    ema.follow(teacher, student, rate)
    for old, new, weight in zip(before, teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(new, rate * old + (1 - rate) * weight, rtol=1e-12, atol=1e-14)
        assert torch.equal(new, old) == (rate == 1)
    assert not teacher.hidden[1].running_mean.any()


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.96), (30, 0.98), (15, 0.96 + 0.04 * (1 - math.cos(math.pi / 4)) / 2)]
)
def test_the_rate_rises_along_half_a_cosine(step: int, expected: float) -> None:
    assert ema.cosine(0.96, Progress(step, 6, 10)) == pytest.approx(expected, rel=1e-12)
    assert ema.cosine(1.0, Progress(step, 6, 10)) == 1
