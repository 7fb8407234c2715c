"""Balanced assignment of images to prototypes by the Sinkhorn-Knopp algorithm (Cuturi 2013)."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def assign(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Soft assignments (n, c) of n images to c prototypes that are as close to `scores` (n, c) as balance permits.

    `epsilon` is the weight of the entropy. As in SwAV (Caron et al. 2020, Eq. 3-5) each iteration gives all prototypes
    equal mass, then all images; so every row sums to exactly 1, and every column to n / c as far as the iterations have
    converged. Computed with logarithms, which cannot overflow.

    >>> assign(torch.tensor([[9.0, 0.0], [8.0, 0.0]]), epsilon=0.01, iterations=100).argmax(1).tolist()
    [0, 1]
    """
    log_q = scores / epsilon
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(0, keepdim=True)
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
    return log_q.exp()
