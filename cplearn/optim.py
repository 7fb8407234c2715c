"""Optimisers for stacked members: one update of all of them, each with its own learning rate and weight decay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from cplearn.config import Optimizer
from cplearn.stacked import members_of


class Adam:
    """Adam (Kingma and Ba 2015) and, decoupled, AdamW (Loshchilov and Hutter 2019) over stacked parameters.

    Equal to `torch.optim.Adam` / `AdamW` for each member by itself. Parameters follow the first-axis convention of
    `cplearn.stacked`. Weight decay spares parameters that are one number a channel (norms).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        weight_decay: Sequence[float],
        *,
        decoupled: bool,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        members = len(weight_decay)
        self.betas, self.eps, self.decoupled, self.steps = betas, eps, decoupled, 0
        self.parameters = list(parameters)
        self.means = [torch.zeros_like(p) for p in self.parameters]
        self.squares = [torch.zeros_like(p) for p in self.parameters]
        self._stacked = [members_of(p.data, members) for p in self.parameters]
        self._decay = torch.tensor(weight_decay, dtype=torch.float64).to(self.parameters[0])
        # A stacked norm is a vector (K*C,); with one member a weight still has two axes or more.
        self._decayed = [i for i, p in enumerate(self.parameters) if p.ndim > 1] if any(weight_decay) else []

    @torch.no_grad()
    def step(self, lr: Tensor) -> None:
        """Update every parameter from its `.grad` and clear the gradients; lr: (K,) on the parameters' device."""
        self.steps += 1
        beta1, beta2 = self.betas
        for i in self._decayed:
            stacked = self._stacked[i]
            if self.decoupled:
                stacked.mul_(_like(1 - lr * self._decay, stacked))
            else:
                grad = members_of(self._grad(i), len(lr))
                grad.add_(stacked * _like(self._decay, stacked))
        grads = [self._grad(i) for i in range(len(self.parameters))]
        torch._foreach_lerp_(self.means, grads, 1 - beta1)
        torch._foreach_mul_(self.squares, beta2)
        torch._foreach_addcmul_(self.squares, grads, grads, 1 - beta2)
        scale = torch._foreach_sqrt(self.squares)
        torch._foreach_div_(scale, math.sqrt(1 - beta2**self.steps))
        torch._foreach_add_(scale, self.eps)
        update = torch._foreach_div(self.means, scale)
        rate = lr / -(1 - beta1**self.steps)
        for change, stacked in zip(update, self._stacked, strict=True):
            stacked.addcmul_(members_of(change, len(lr)), _like(rate, stacked))
        for parameter in self.parameters:
            parameter.grad = None

    def _grad(self, index: int) -> Tensor:
        grad = self.parameters[index].grad
        assert grad is not None, "every parameter of a stacked model takes part in the loss"
        return grad

    def state_dict(self) -> dict[str, Tensor]:
        """Moments under `mean.<i>` and `square.<i>`, all with the members in the first axis; and the step count."""
        state = {f"mean.{i}": t for i, t in enumerate(self.means)}
        return state | {f"square.{i}": t for i, t in enumerate(self.squares)}

    def load_state_dict(self, state: dict[str, Tensor], steps: int) -> None:
        """Take over moments as given by `state_dict` and the number of steps made so far."""
        self.steps = steps
        for i, (mean, square) in enumerate(zip(self.means, self.squares, strict=True)):
            mean.copy_(state[f"mean.{i}"])
            square.copy_(state[f"square.{i}"])


def _like(per_member: Tensor, stacked: Tensor) -> Tensor:
    return per_member.view(-1, *[1] * (stacked.ndim - 1))


def build(settings: Sequence[Optimizer], parameters: Iterable[nn.Parameter]) -> Adam:
    """The optimiser of K members; they share its name and differ at most in numbers."""
    return Adam(parameters, [s.weight_decay for s in settings], decoupled=settings[0].name == "adamw")


def learning_rates(settings: Sequence[Optimizer], epochs: int, steps_per_epoch: int) -> Tensor:
    """The learning rate of every step and member, (steps, K) float64.

    Linear warm-up from `warmup_lr`, then constant or a cosine to 0 that would reach it one step after the last.
    """
    total = epochs * steps_per_epoch
    step = torch.arange(total, dtype=torch.float64)
    columns = []
    for s in settings:
        warmup = round(s.warmup_epochs * steps_per_epoch)
        progress = (step - warmup) / max(1, total - warmup)
        factor = torch.ones_like(step) if s.schedule == "constant" else 0.5 * (1 + torch.cos(math.pi * progress))
        rising = s.warmup_lr + (s.lr - s.warmup_lr) * step / max(1, warmup)
        columns.append(torch.where(step < warmup, rising, s.lr * factor))
    return torch.stack(columns, dim=1)
