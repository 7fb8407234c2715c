"""Learning rate and weight decay of every step, as tables made before training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cplearn.config import groups as config

REFERENCE_BATCH = 256
"""Batch for which a learning rate is meant that `scale_lr` adapts (Goyal et al. 2017)."""


def learning_rates(
    settings: Sequence[config.OptimizerSettings], epochs: int, steps_per_epoch: int, batch_size: int = REFERENCE_BATCH
) -> Tensor:
    """The learning rate of every step and member, (steps, K) float64.

    Linear warm-up from `warmup_lr`, then constant or a cosine to `lr_end` that would reach it one step after the last.
    With `scale_lr` the peak, not the two ends, is for 256 images a step and grows with `batch_size`.
    """
    total = epochs * steps_per_epoch
    step = torch.arange(total, dtype=torch.float64)
    columns = []
    for s in settings:
        peak = s.lr * (batch_size / REFERENCE_BATCH if s.scale_lr else 1)
        warmup = round(s.warmup_epochs * steps_per_epoch)
        progress = (step - warmup) / max(1, total - warmup)
        factor = torch.ones_like(step) if s.schedule == "constant" else _cosine(progress)
        rising = s.warmup_lr + (peak - s.warmup_lr) * step / max(1, warmup)
        columns.append(torch.where(step < warmup, rising, s.lr_end + (peak - s.lr_end) * factor))
    return torch.stack(columns, dim=1)


def weight_decays(settings: Sequence[config.OptimizerSettings], steps: int) -> Tensor:
    """The weight decay of every step and member, (steps, K) float64; (1, K) if it stays the same.

    From `weight_decay` on a cosine to `weight_decay_end`, as in DINO over the whole training, warm-up included.
    """
    start = torch.tensor([s.weight_decay for s in settings], dtype=torch.float64)
    if all(s.weight_decay_end is None for s in settings):
        return start[None]
    ends = [s.weight_decay if s.weight_decay_end is None else s.weight_decay_end for s in settings]
    end = torch.tensor(ends, dtype=torch.float64)
    factor = _cosine(torch.arange(steps, dtype=torch.float64) / steps)
    return end + (start - end) * factor[:, None]


def _cosine(progress: Tensor) -> Tensor:
    """1 at the beginning, 0 at the end."""
    return 0.5 * (1 + torch.cos(math.pi * progress))
