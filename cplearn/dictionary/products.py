"""Products with a dictionary, on a CPU by oneDNN.

PyTorch hands single-precision products on a CPU to MKL, which on AMD processors leaves half of the vector units' width
unused; oneDNN, which computes PyTorch's convolutions, does not (`python -m cplearn.dictionary.products` measures both).
"""

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_SIGNATURE = "(Tensor X, Tensor W, Tensor? B, str attr, Scalar?[] scalars, str? algorithm) -> Tensor Y"


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.T of (m, k) and (n, k), with a gradient for `a` alone.

    >>> product(torch.ones(1, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[3.0, 7.0]]
    """
    if _linear is None or a.device.type != "cpu" or a.dtype != torch.float32 or not torch.backends.mkldnn.enabled:
        return a @ b.detach().T
    return _Product.apply(a, b.detach())


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(b)
        return _linear(a, b, None, "none", [], None)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (b,) = ctx.saved_tensors
        return product(gradients[0], b.T), None


def _operator() -> Any:
    """oneDNN's linear layer for ordinary tensors, which PyTorch's compiler uses; None where it is another one."""
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if operator is None or not torch.backends.mkldnn.is_available():
        return None
    return operator if str(operator.default._schema).endswith(f"_linear_pointwise{_SIGNATURE}") else None


_linear = _operator()


def counts() -> dict[Any, Callable[..., int]]:
    """How many operations `product` costs where PyTorch does not know it; for `torch.utils.flop_counter`."""
    return {} if _linear is None else {_linear: lambda x, weight, *_, **__: 2 * math.prod(x) * weight[0]}


def main() -> None:
    """Print the rate of both libraries for the products of 128 embeddings with a block of 2,048 codes."""
    from torch.utils.benchmark import Timer  # it is slow to import

    for length in (128, 384):
        a, b = torch.randn(128, length), torch.randn(2048, length)
        for name, expression in (("oneDNN", "product(a, b)"), ("torch.matmul", "a @ b.T")):
            timer = Timer(expression, globals={"product": product, "a": a, "b": b})
            rate = 2 * len(a) * len(b) * length / timer.blocked_autorange(min_run_time=0.5).median
            sys.stdout.write(f"f = {length}: {name} {rate / 1e9:.0f} GFLOP/s\n")


if __name__ == "__main__":
    main()
