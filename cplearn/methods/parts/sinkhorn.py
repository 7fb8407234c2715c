"""Balanced assignment of images to prototypes by the Sinkhorn-Knopp algorithm (Cuturi 2013)."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def assign(scores: Tensor, epsilon: Tensor, iterations: int) -> Tensor:
    """Soft assignments of n images to c prototypes that are as close to `scores` as balance permits.

    scores: (K, n, c); epsilon: (K,), the weight of the entropy. Returns (K, n, c). As in SwAV (Caron et al. 2020,
    Eq. 3-5) each iteration gives all prototypes equal mass, then all images; so every row sums to exactly 1, and every
    column to n / c as far as the iterations have converged. Computed with logarithms, which cannot overflow.
    """
    log_q = scores / epsilon[:, None, None]
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
        log_q = log_q - log_q.logsumexp(2, keepdim=True)
    return log_q.exp()
