"""Products with a dictionary, on a CPU by oneDNN.

PyTorch hands single-precision products on a CPU to MKL, which on AMD processors leaves half of the vector units' width
unused; oneDNN, which computes PyTorch's convolutions, does not (`python -m cplearn.dictionary.products` measures both).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_SIGNATURE = "(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y"


def product(a: Tensor, b: Tensor) -> Tensor:
    """Each member's a @ b.T: (K, m, k) and (K, n, k) to (K, m, n), with a gradient for `a` alone."""
    b = b.detach()
    single = a.device.type == "cpu" and a.dtype == torch.float32
    if _linear is None or not single or not torch.backends.mkldnn.enabled:
        return torch.bmm(a, b.mT)
    if a.requires_grad and torch.is_grad_enabled():
        return _Product.apply(a, b)
    return _each(a, b)


def _operator() -> Any:
    """oneDNN's linear layer for ordinary tensors, which PyTorch's compiler uses; None where it is another one."""
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    known = found is not None and str(found.default._schema).partition("_linear_pointwise")[2] == _SIGNATURE
    return found if known and torch.backends.mkldnn.is_available() else None


_linear = _operator()


def counts() -> dict[Any, Callable[..., int]]:
    """How many operations `product` costs where PyTorch does not know it; for `torch.utils.flop_counter`."""

    def of_linear(x: Sequence[int], weight: Sequence[int], *others: Any, **how: Any) -> int:
        return 2 * math.prod(x) * weight[0]

    return {} if _linear is None else {_linear: of_linear}


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(b)
        return _each(a, b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (b,) = ctx.saved_tensors
        return _each(gradients[0], b.mT), None


def _each(a: Tensor, b: Tensor) -> Tensor:
    parts = [_linear(one, other, None, "none", [], None) for one, other in zip(a, b, strict=True)]
    return parts[0][None] if len(parts) == 1 else torch.stack(parts)


def _rate(way: Callable[[Tensor, Tensor], object], a: Tensor, b: Tensor) -> float:
    """GFLOP a second, the best of some turns."""
    way(a, b)
    best = math.inf
    for _ in range(20):
        start = time.perf_counter()
        way(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * a.shape[1] * b.shape[1] * a.shape[2] / best / 1e9


def main() -> None:
    """Print the rate of both libraries for the products of 128 embeddings with a block of 2,048 codes."""
    for length in (128, 384):
        a, b = torch.randn(1, 128, length), torch.randn(1, 2048, length)
        with torch.inference_mode():
            ours, plain = _rate(product, a, b), _rate(lambda a, b: torch.bmm(a, b.mT), a, b)
        sys.stdout.write(f"f = {length}: {ours:.0f} GFLOP/s, torch.bmm {plain:.0f} GFLOP/s\n")


if __name__ == "__main__":
    main()
