"""Exponential moving averages of weights: the teachers of self-distillation."""

from __future__ import annotations

import math

import torch
from torch import nn

from cplearn.methods.base import Progress


def cosine(start: float, progress: Progress) -> float:
    """The rate of a teacher that rises from `start` to 1 along half a cosine (Grill et al. 2020).

    >>> cosine(0.96, Progress(step=30, steps_per_epoch=6, epochs=10))
    0.98
    """
    return 1 - (1 - start) * 0.5 * (1 + math.cos(math.pi * progress.fraction))


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move every parameter t of the teacher towards that of the student: t <- m t + (1 - m) s.

    Buffers are left alone: the BatchNorms of a teacher keep statistics of their own, those of its forward passes.
    """
    for average, weight in zip(teacher.parameters(), student.parameters(), strict=True):
        average.mul_(momentum).add_(weight, alpha=1 - momentum)
