"""What methods put on top of a backbone: projectors, cosine classifiers, frozen weights; all of K members."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cplearn import stacked


class MLP(nn.Module):
    """Linear maps with BatchNorm and ReLU between them; the `last` map is bare, what comes before it is `hidden`.

    Without `norm` the maps have biases and GELU stands between them, as in DINO's head.
    """

    def __init__(self, members: int, widths: Sequence[int], *, norm: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        *hidden, last = itertools.pairwise(widths)
        for c_in, c_out in hidden:
            layers.append(stacked.Linear(members, c_in, c_out, bias=not norm))
            layers += [stacked.BatchNorm1d(members, c_out), nn.ReLU()] if norm else [nn.GELU()]
        self.hidden = nn.Sequential(*layers)
        self.last = stacked.Linear(members, *last, bias=not norm)

    def forward(self, x: Tensor) -> Tensor:
        """x: (K, n, widths[0]); returns (K, n, widths[-1])."""
        return self.last(self.hidden(x))


class Cosine(stacked.Linear):
    """A linear map whose c_out directions have length 1: a weight-normalised layer with its gains fixed at 1."""

    def forward(self, x: Tensor) -> Tensor:
        """x: (K, n, c_in); returns (K, n, c_out), the cosines if the rows of x have length 1."""
        return torch.bmm(x, F.normalize(self.weight, dim=1))


def each_view(head: nn.Module, features: Tensor) -> Tensor:
    """(K, V, n, F) to (K, V, n, f), view by view, so that a BatchNorm normalises one view at a time."""
    return torch.stack([head(view) for view in features.unbind(1)], dim=1)


class Freeze:
    """Keeps a weight through one update as it is.

    A zero gradient does not suffice: weight decay and running means of gradients would still move the weight.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        """Call it between the backward pass and the optimiser."""
        assert weight.grad is not None, "a frozen weight still takes part in the loss"
        weight.grad.zero_()
        self.weight, self.kept = weight, weight.detach().clone()

    @torch.no_grad()
    def undo(self) -> None:
        """Call it after the optimiser."""
        self.weight.copy_(self.kept)
