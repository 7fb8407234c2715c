"""What several methods share: projectors, cosine classifiers, losses of predicting other views, moving averages."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cplearn.methods.base import Progress


class MLP(nn.Module):
    """Linear maps with BatchNorm and ReLU between them; the `last` one is bare, what comes before it is `hidden`.

    The maps have no biases, which a BatchNorm would cancel. Without `norm` they have, and GELU stands between them, as
    in DINO's head.
    """

    def __init__(self, widths: Sequence[int], *, norm: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        *hidden, last = itertools.pairwise(widths)
        for c_in, c_out in hidden:
            layers.append(nn.Linear(c_in, c_out, bias=not norm))
            layers += [nn.BatchNorm1d(c_out), nn.ReLU()] if norm else [nn.GELU()]
        self.hidden = nn.Sequential(*layers)
        self.last = nn.Linear(*last, bias=not norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(x))


class Cosine(nn.Linear):
    """A linear map whose directions have length 1: a weight-normalised layer with its gains fixed at 1.

    Rows of length 1, (n, c_in), are mapped to cosines, (n, c_out).
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.normalize(self.weight, dim=1))


def each_view(head: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Map (V, n, F) to (V, n, f) view by view, so that a BatchNorm normalises one view at a time."""
    return torch.stack([head(view) for view in features])


def cross_entropy(log_p: Tensor, targets: Tensor) -> Tensor:
    """Mean over global views a and all views b ≠ a of -(1/n) Σ_i Σ_j t^a_ij log p^b_ij.

    log_p: log-probabilities (V, n, c), the G global views first; targets: probabilities t (G, n, c).
    """
    return -torch.stack([(t * p).sum(-1).mean() for t, p in _pairs(targets, log_p)]).mean()


def cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean over global views a and all views b ≠ a of (1/n) Σ_i cos(p^b_i, t^a_i).

    predictions: p (V, n, d), the G global views first; targets: t (G, n, d).
    """
    pairs = _pairs(F.normalize(targets, dim=-1), F.normalize(predictions, dim=-1))
    return torch.stack([(t * p).sum(-1).mean() for t, p in pairs]).mean()


def _pairs(targets: Tensor, predictions: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Every target of a view a with every prediction from a view b ≠ a; views are in the first dimension of both."""
    return [(t, p) for a, t in enumerate(targets) for b, p in enumerate(predictions) if b != a]


def rising(first: float, progress: Progress) -> float:
    """The rate of a moving average that rises from `first` to 1 along half a cosine (Grill et al. 2020)."""
    return 1 - (1 - first) * 0.5 * (1 + math.cos(math.pi * progress.fraction))


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move every parameter t of the teacher towards that of the student: t <- m t + (1 - m) s.

    Buffers are left alone: the BatchNorms of a teacher keep statistics of their own, those of its forward passes.
    """
    for average, weight in zip(teacher.parameters(), student.parameters(), strict=True):
        average.mul_(momentum).add_(weight, alpha=1 - momentum)
