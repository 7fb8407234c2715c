"""One trial on several devices: a process for each, the batch of the trial split among them.

What a loss computes over the batch must be over the whole batch. So each process runs the backbone on its part of the
images, the features are gathered, and every process computes projector and loss on all of them, alike; methods know
nothing of it. The backward pass of `Ranks.gather` hands every process the gradient of its own features: the gradients
of the backbone's parameters are then parts of a sum, and are added up; those of the method are whole everywhere.
"""

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
        share = n // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def gather(self, features: Tensor) -> Tensor:
        """Features (V, n / size, F) of this process to (V, n, F) of all, in the order of the batch; differentiable."""
        if self.size == 1:
            return features
        return _Gather.apply(features, self)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, differentiable; of any shape."""
        if self.size == 1:
            return tensor
        from torch.distributed.nn.functional import all_reduce  # torch imports much for it

        # Its default group is the one of the time of that import, which a later trial of this process has left.
        return all_reduce(tensor, group=dist.group.WORLD)

    def reduce(self, parameters: Iterable[nn.Parameter], mean: bool = False) -> None:
        """Replace gradients by their sums over all processes, or by their means where they are equal but for rounding,
        which must never let the processes drift apart."""
        # Even to list the parameters would be felt in a small step.
        grads = [p.grad for p in parameters if p.grad is not None] if self.size > 1 else []
        if not grads:
            return
        # In one message: most gradients are so small that their number would decide the time.
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        totals = flat.div_(self.size) if mean else flat
        for grad, total in zip(grads, totals.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(total.view_as(grad))


ALONE = Ranks()  # The one process of a trial on one device.


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, ranks: Ranks) -> Tensor:
        ctx.part = slice(ranks.rank * features.shape[1], (ranks.rank + 1) * features.shape[1])
        features = features.contiguous()
        parts = [torch.empty_like(features) for _ in range(ranks.size)]
        dist.all_gather(parts, features)
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][:, ctx.part].contiguous(), None


class SharedBatchNorm(nn.BatchNorm2d):
    """The batch normalisation `norm`, with mean and variance in training over the batches of all processes.

    Those batches are equally large. torch's SyncBatchNorm, which does the same, needs CUDA. Parameters and buffers are
    those of `norm`; what timm puts into its norm, dropout and an activation, follows.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, norm: nn.BatchNorm2d, ranks: Ranks) -> None:
        super().__init__(norm.num_features)
        self.__dict__.update(norm.__dict__)
        self.ranks = ranks

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W); returns the same shape."""
        x = self._normalise_together(x) if self.training else super().forward(x)
        for layer in self.children():
            x = layer(x)
        return x

    def _normalise_together(self, x: Tensor) -> Tensor:
        axes, shape = (0, 2, 3), (1, -1, 1, 1)
        wide = x.to(self.weight.dtype)  # under autocast the images may be half precision
        count = x.numel() // x.shape[1] * self.ranks.size
        mean = self.ranks.sum(wide.sum(axes)) / count
        centred = wide - mean.view(shape)
        variance = self.ranks.sum(centred.square().sum(axes)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


def synchronise(backbone: nn.Module, ranks: Ranks, batch_size: int) -> None:
    """Let the layers of a backbone know of the other processes: norms, and stochastic depth, which must draw for all.

    Raises InputError for a backbone with other norms over the batch, as a few models of timm have.
    """
    if ranks.size == 1:
        return
    for module in list(backbone.modules()):
        for name, layer in list(module.named_children()):
            # The second is timm's; by name, because timm takes seconds to import.
            usual = type(layer).__name__ in {"BatchNorm2d", "BatchNormAct2d"}
            complete = usual and layer.track_running_stats and layer.affine and layer.momentum is not None
            if isinstance(layer, nn.BatchNorm2d) and complete:
                setattr(module, name, SharedBatchNorm(layer, ranks))
            elif callable(join := getattr(layer, "join", None)):
                join(ranks, batch_size)
            elif {"running_mean", "running_var"} & {buffer for buffer, _ in layer.named_buffers(recurse=False)}:
                raise InputError(
                    f"layers {type(layer).__name__} of the backbone follow the batch of one device and know nothing of "
                    "others; use a backbone without (a vision transformer, for instance) or train on one device",
                    "backbone.model",
                )
