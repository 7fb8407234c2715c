"""One trial on several devices: a process for each, the batch of the trial split among them.

What a loss computes over the batch (prior matching, cross-correlation, Sinkhorn, the projector's BatchNorm) must be
over the whole batch, whatever the number of processes. So each process runs the backbone on its part of the images, the
features are gathered, and every process computes projector and loss on all of them, alike. Methods know nothing of it.

Gradients: the backward pass of `Ranks.gather` hands every process the gradient of its own features. Those of the
backbone's parameters are then parts of a sum, and are added up; those of the method are whole everywhere already.
The backbone's BatchNorm takes its statistics over all processes (`stacked.BatchNorm2d`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cplearn.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """This process among those that train a trial together: `rank` of `size`, in torch's default process group.

    With a size of 1 there is no group, and every method returns what it was given.
    """

    rank: int = 0
    size: int = 1

    def part(self, n: int) -> slice:
        """Which of `n` images of a batch are this process's; raises InputError unless all can have equally many."""
        if n % self.size:
            raise InputError(
                f"batch_size {n} cannot be split among {self.size} devices; choose a multiple", "batch_size"
            )
        own = n // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def gather(self, features: Tensor) -> Tensor:
        """(K, V, n / size, F) of this process to (K, V, n, F) of all, in the order of the batch; differentiable."""
        if self.size == 1:
            return features
        gathered: Tensor = _Gather.apply(features, self)
        return gathered

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, differentiable; of any shape."""
        if self.size == 1:
            return tensor
        summed: Tensor = _Sum.apply(tensor)
        return summed

    def add_up(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums over all processes."""
        self._reduce(parameters, 1)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients, which are the same on all processes but for rounding, by their means, so that rounding
        never lets the processes drift apart."""
        self._reduce(parameters, self.size)

    def _reduce(self, parameters: Iterable[nn.Parameter], divisor: int) -> None:
        if self.size == 1:
            return  # Even to list the parameters would be felt in a small step.
        grads = [p.grad for p in parameters if p.grad is not None]
        if not grads:
            return
        # In one message: most gradients are so small that their number would decide the time.
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        for grad, total in zip(grads, flat.div_(divisor).split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(total.view_as(grad))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, ranks: Ranks) -> Tensor:
        ctx.part = slice(ranks.rank * features.shape[2], (ranks.rank + 1) * features.shape[2])
        own = features.contiguous()
        parts = [torch.empty_like(own) for _ in range(ranks.size)]
        dist.all_gather(parts, own)
        return torch.cat(parts, dim=2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][:, :, ctx.part].contiguous(), None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # The sum has reached the outputs of every process, so each holds a part of its gradient.
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def synchronise(backbone: nn.Module, ranks: Ranks, batch_size: int) -> None:
    """Let the layers of a backbone know of the other processes: norms, and stochastic depth, which must draw for all.

    Raises InputError for a backbone with other norms over the batch, as a few models of timm have.
    """
    if ranks.size == 1:
        return
    for layer in backbone.modules():
        join = getattr(layer, "join", None)
        if callable(join):
            join(ranks, batch_size)
        elif {"running_mean", "running_var"} & {name for name, _ in layer.named_buffers(recurse=False)}:
            raise InputError(
                f"layers {type(layer).__name__} of the backbone follow the batch of one device and know nothing of "
                "others; use a backbone without (a vision transformer, for instance) or train on one device",
                "backbone.model",
            )
