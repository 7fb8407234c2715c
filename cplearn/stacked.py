"""Layers that hold K independent members and compute all of them in one call.

Convention, relied upon everywhere: the first axis of every parameter and buffer is divisible by K and member-major, so
that `tensor.unflatten(0, (K, -1))[k]` is what member k would own alone. Images carry the members in the channel axis
(N, K*C, H, W), vectors in a leading axis (K, ..., C). K = 1 is an ordinary network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cplearn.distributed import Ranks


class Conv2d(nn.Module):
    """K convolutions without bias (a BatchNorm follows, which would cancel it)."""

    def __init__(
        self, members: int, c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int | None = None
    ) -> None:
        super().__init__()
        self.members, self.c_in, self.stride = members, c_in, stride
        self.padding = kernel // 2 if padding is None else padding
        self.weight = nn.Parameter(torch.empty(members * c_out, c_in, kernel, kernel))
        self.init_std = (2 / (c_in * kernel * kernel)) ** 0.5  # He et al. 2015, fan-in

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, K*c_in, H, W), or (N, c_in, H, W) if all members see the same images; to (N, K*c_out, H', W')."""
        shared = x.shape[1] == self.c_in
        stride = self.stride
        if self.weight.shape[-1] == 1 and stride > 1:
            # On processors without AVX-512, oneDNN's strided 1x1 convolution of fewer than eight channels writes beyond
            # its buffers (torch 2.14.1), and the process dies later.
            x, stride = x[:, :, ::stride, ::stride], 1
        return F.conv2d(x, self.weight, None, stride, self.padding, groups=1 if shared else self.members)


class Linear(nn.Module):
    """K linear maps; `bias` is off by default, because a BatchNorm that follows would cancel it.

    A bias starts at 0 and is stored flat, (K*c_out,), so that weight decay spares it as it does norms.
    """

    def __init__(self, members: int, c_in: int, c_out: int, bias: bool = False) -> None:
        super().__init__()
        self.members = members
        self.weight = nn.Parameter(torch.empty(members, c_in, c_out))
        self.bias = nn.Parameter(torch.zeros(members * c_out)) if bias else None
        self.init_std = (1 / c_in) ** 0.5

    def forward(self, x: Tensor) -> Tensor:
        """x: (K, n, c_in); returns (K, n, c_out)."""
        if self.bias is None:
            return torch.bmm(x, self.weight)
        return torch.baddbmm(self.bias.view(self.members, 1, -1), x, self.weight)


class BatchNorm2d(nn.Module):
    """Per-channel, hence per-member, batch normalisation of (N, K*C, H, W).

    Unlike `torch.nn.BatchNorm2d` it counts no batches: a counter shared by the members would break the first-axis
    convention, and a fixed momentum does not need one.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, members: int, channels: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.members, self.momentum, self.eps = members, momentum, eps
        self.weight = nn.Parameter(torch.ones(members * channels))
        self.bias = nn.Parameter(torch.zeros(members * channels))
        self.register_buffer("running_mean", torch.zeros(members * channels))
        self.register_buffer("running_var", torch.ones(members * channels))

        self.ranks = Ranks()

    def join(self, ranks: Ranks, batch_size: int) -> None:
        """Take the statistics of training over the batches of all `ranks`, which are equally large."""
        self.ranks = ranks

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, K*C, ...); returns the same shape."""
        return batch_norm(x, self, self.ranks)


def batch_norm(x: Tensor, norm: Any, ranks: Ranks) -> Tensor:
    """What `norm`, a batch normalisation of (N, C, ...), makes of x.

    In training mean and variance are those of the batches of all `ranks` (torch's SyncBatchNorm needs CUDA).
    """
    if not norm.training or ranks.size == 1:
        return F.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.training, norm.momentum, norm.eps
        )
    axes, shape = [0, *range(2, x.ndim)], [1, -1] + [1] * (x.ndim - 2)
    wide = x.to(norm.weight.dtype)  # under autocast the images may be half precision
    count = x.numel() // x.shape[1] * ranks.size
    mean = ranks.sum(wide.sum(axes)) / count
    centred = wide - mean.view(shape)
    variance = ranks.sum(centred.square().sum(axes)) / count
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return (centred * scale.view(shape) + norm.bias.view(shape)).to(x.dtype)


class BatchNorm1d(BatchNorm2d):
    """Batch normalisation of (K, n, C) over n, for each member by itself."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (K, n, C); returns the same shape."""
        normed = super().forward(x.transpose(0, 1).flatten(1))
        return normed.unflatten(1, (self.members, -1)).transpose(0, 1)


@torch.no_grad()
def initialise(module: nn.Module, generators: Sequence[torch.Generator]) -> None:
    """Draw the weights of every `Conv2d` and `Linear`, member k from `generators[k]` alone (on the CPU)."""
    for layer in module.modules():
        if isinstance(layer, Conv2d | Linear):
            for own, generator in zip(members_of(layer.weight, len(generators)), generators, strict=True):
                own.normal_(0, layer.init_std, generator=generator)


def members_of(tensor: Tensor, members: int) -> Tensor:
    """The view (K, first axis / K, ...) of a parameter or buffer, whatever its memory format.

    A lone member may also own tensors without axes, such as the counters of `torch.nn.BatchNorm2d`.
    """
    return tensor.unsqueeze(0) if members == 1 else tensor.unflatten(0, (members, -1))


def take_member(state: dict[str, Tensor], member: int, members: int) -> dict[str, Tensor]:
    """The state dict that member `member` of K would have had alone (copies)."""
    return {name: members_of(tensor, members)[member].clone() for name, tensor in state.items()}


def stack_members(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The inverse of `take_member`: one state dict of K members."""
    if len(states) == 1:
        return {name: tensor.clone() for name, tensor in states[0].items()}
    return {name: torch.cat([state[name] for state in states]) for name in states[0]}
