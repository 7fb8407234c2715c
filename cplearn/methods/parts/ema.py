"""Exponential moving averages of weights: the teachers of self-distillation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cplearn.methods.base import Progress
from cplearn.stacked import members_of


def cosine(start: Tensor, progress: Progress) -> Tensor:
    """The rate of a teacher that rises from `start` (K,) along half a cosine to 1 (Grill et al. 2020), (K,)."""
    return 1 - (1 - start) * (0.5 * (1 + math.cos(math.pi * progress.fraction)))


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: Tensor) -> None:
    """t <- m t + (1 - m) s for every parameter, member k at rate `momentum[k]`.

    Buffers are left alone: the BatchNorms of a teacher keep statistics of their own, those of its forward passes.
    """
    for own, other in zip(teacher.parameters(), student.parameters(), strict=True):
        stacked = members_of(own, len(momentum))
        rate = momentum.view(-1, *[1] * (stacked.ndim - 1))
        stacked.mul_(rate).add_(members_of(other, len(momentum)) * (1 - rate))
