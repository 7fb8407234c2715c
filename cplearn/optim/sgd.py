"""Gradient descent with momentum, and LARS, which gives every layer a step of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from cplearn.config import groups as config
from cplearn.optim.base import Optimizer, like, norms
from cplearn.stacked import members_of


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, as `torch.optim.SGD` without Nesterov's variant."""

    moments = ("momentum",)

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        settings: Sequence[config.OptimizerSettings],
        steps: int = 1,
        *,
        scaled: bool = False,
    ) -> None:
        super().__init__(parameters, settings, steps, scaled=scaled)
        self._momentum = self._numbers([s.momentum for s in settings])

    def _update(self, lr: Tensor, decay: Tensor, count: int | Tensor) -> None:
        self._add_decay(decay)
        for i, stacked in enumerate(self._stacked):
            velocity = members_of(self.state["momentum"][i], self.members)
            velocity.mul_(like(self._momentum, velocity)).add_(members_of(self._grad(i), self.members))
            stacked.addcmul_(velocity, like(-lr, stacked))


class LARS(SGD):
    """Layer-wise adaptive rate scaling (You, Gitman and Ginsburg 2017) in the clipped form of solo-learn.

    The decayed gradient g + λw of a layer is multiplied by min(η |w| / (|g| + λ|w| + ε) / lr, 1), ε = 1e-8, before the
    momentum. Where |w| or |g| is 0, decay and factor are left out. Norms and biases are neither decayed nor adapted.
    """

    eps = 1e-8

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        settings: Sequence[config.OptimizerSettings],
        steps: int = 1,
        *,
        scaled: bool = False,
    ) -> None:
        super().__init__(parameters, settings, steps, scaled=scaled)
        self._eta = self._numbers([s.eta for s in settings])

    def _update(self, lr: Tensor, decay: Tensor, count: int | Tensor) -> None:
        for i, parameter in enumerate(self.parameters):
            if parameter.ndim > 1:
                weight, grad = self._stacked[i], members_of(self._grad(i), self.members)
                of_weight, of_grad = norms(weight), norms(grad)
                factor = (self._eta * of_weight / (of_grad + decay * of_weight + self.eps) / lr).clamp(max=1)
                adapted = (grad + weight * like(decay, weight)) * like(factor, grad)
                grad.copy_(torch.where(like((of_weight != 0) & (of_grad != 0), grad), adapted, grad))
        # Decay is in the gradients already.
        super()._update(lr, torch.zeros_like(decay), count)
