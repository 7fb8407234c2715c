"""Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from cplearn.config import groups as config
from cplearn.optim.base import Optimizer, like
from cplearn.stacked import members_of


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015) and, decoupled, AdamW (Loshchilov and Hutter 2019), as in `torch.optim`."""

    moments = ("mean", "square")

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        settings: Sequence[config.OptimizerSettings],
        steps: int = 1,
        *,
        scaled: bool = False,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, settings, steps, scaled=scaled)
        self.betas, self.eps, self.decoupled = betas, eps, settings[0].name == "adamw"

    def _update(self, lr: Tensor, decay: Tensor, count: int | Tensor) -> None:
        means, squares = self.state["mean"], self.state["square"]
        beta1, beta2 = self.betas
        if self.decoupled:
            for i in self._decayed:
                self._stacked[i].mul_(like(1 - lr * decay, self._stacked[i]))
        else:
            self._add_decay(decay)
        grads = [self._grad(i) for i in range(len(self.parameters))]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        scale = torch._foreach_sqrt(squares)
        if isinstance(count, int):
            torch._foreach_div_(scale, math.sqrt(1 - beta2**count))
        else:
            for tensor in scale:
                own = members_of(tensor, self.members)
                own.div_(like((1 - beta2**count).sqrt().to(own.dtype), own))
        torch._foreach_add_(scale, self.eps)
        update = torch._foreach_div(means, scale)
        rate = lr / -(1 - beta1**count)
        for change, stacked in zip(update, self._stacked, strict=True):
            stacked.addcmul_(members_of(change, self.members), like(rate.to(stacked.dtype), stacked))
