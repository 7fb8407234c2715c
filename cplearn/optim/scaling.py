"""A loss scale for each member, so that small gradients survive in float16."""

from __future__ import annotations

import torch
from torch import Tensor


class LossScale:
    """Dynamic loss scaling (Micikevicius et al. 2018) with the constants of `torch.amp.GradScaler`, one scale a member.

    A scale halves when gradients of its member overflow, and doubles after `interval` updates without an overflow. All
    of it lives on the device: the host never waits to hear who overflowed.
    """

    def __init__(
        self, members: int, device: torch.device, start: float = 2.0**16, growth: float = 2.0, interval: int = 2000
    ) -> None:
        self.growth, self.interval = growth, interval
        self.scale = torch.full((members,), start, dtype=torch.float64, device=device)
        self.since = torch.zeros(members, dtype=torch.int64, device=device)
        """Updates since the scale last changed."""
        self.skipped = torch.zeros(members, dtype=torch.int64, device=device)
        """Updates that were skipped so far."""

    def multiply(self, losses: Tensor) -> Tensor:
        """losses (K,) times the scale."""
        return losses * self.scale.to(losses.dtype)

    def inverse(self, dtype: torch.dtype) -> Tensor:
        """What gradients are multiplied by to undo the scale, (K,)."""
        return self.scale.reciprocal().to(dtype)

    def adapt(self, fine: Tensor) -> None:
        """Take note of which members (K,) had finite gradients."""
        self.skipped += ~fine
        self.since = torch.where(fine, self.since + 1, 0)
        grown = self.since == self.interval
        self.since = torch.where(grown, 0, self.since)
        self.scale = torch.where(
            fine, torch.where(grown, self.scale * self.growth, self.scale), self.scale / self.growth
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors themselves, each (K,)."""
        return {"scale.scale": self.scale, "scale.since": self.since, "scale.skipped": self.skipped}
