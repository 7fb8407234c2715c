"""What all optimisers share: members in the first axis, weight decay, clipping, the scaled loss, state."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from cplearn.config import groups as config
from cplearn.optim.scaling import LossScale
from cplearn.optim.schedules import weight_decays
from cplearn.stacked import members_of


class Optimizer(ABC):
    """An optimiser over stacked parameters, for each member equal to the one of the same name for that member alone.

    Parameters follow the first-axis convention of `cplearn.stacked`. Weight decay spares parameters that are one number
    a channel (norms, biases). A subclass names its moments in `moments` and computes them in `_update`.
    """

    moments: tuple[str, ...]

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        settings: Sequence[config.OptimizerSettings],
        steps: int = 1,
        *,
        scaled: bool = False,
    ) -> None:
        self.parameters, self.members, self.steps = list(parameters), len(settings), 0
        self.state = {name: [torch.zeros_like(p) for p in self.parameters] for name in self.moments}
        self._stacked = [members_of(p.data, self.members) for p in self.parameters]
        self._decays = weight_decays(settings, steps).to(self.parameters[0])
        # A stacked norm is a vector (K*C,); with one member a weight still has two axes or more.
        decays = bool(self._decays.any())
        self._decayed = [i for i, p in enumerate(self.parameters) if p.ndim > 1] if decays else []
        limits = [math.inf if s.clip is None else s.clip for s in settings]
        self._limits = self._numbers(limits) if min(limits) < math.inf else None
        self.loss_scale = LossScale(self.members, self.parameters[0].device) if scaled else None

    def scaled(self, losses: Tensor) -> Tensor:
        """The losses (K,) whose gradients `step` expects."""
        return losses if self.loss_scale is None else self.loss_scale.multiply(losses)

    @torch.no_grad()
    def step(self, lr: Tensor) -> None:
        """Update every parameter from its `.grad` and clear the gradients; lr: (K,) on the parameters' device.

        With a scaled loss, a member whose gradients are not all finite keeps its parameters and moments as they were.
        """
        grads = [members_of(self._grad(i), self.members) for i in range(len(self.parameters))]
        if self.loss_scale is not None:
            for grad in grads:
                grad.mul_(like(self.loss_scale.inverse(grad.dtype), grad))
        norms = total_norms(grads) if self.loss_scale is not None or self._limits is not None else None
        if norms is not None and self._limits is not None:
            factors = (self._limits / (norms + 1e-6)).clamp(max=1)
            # Without a limit no norm counts, not even one that overflows.
            factors = torch.where(self._limits.isinf(), torch.ones_like(factors), factors)
            for grad in grads:
                grad.mul_(like(factors, grad))
        decay = self._decays[min(self.steps, len(self._decays) - 1)]
        if norms is None or self.loss_scale is None:
            self._update(lr, decay, self.steps + 1)
        else:
            self._update_where(norms.isfinite(), lr, decay, self.loss_scale)
        self.steps += 1
        for parameter in self.parameters:
            parameter.grad = None

    @abstractmethod
    def _update(self, lr: Tensor, decay: Tensor, count: int | Tensor) -> None:
        """Change moments and parameters; lr, decay: (K,). `count` numbers the update from 1, as one or (K,)."""

    def _update_where(self, fine: Tensor, lr: Tensor, decay: Tensor, scale: LossScale) -> None:
        """`_update`, undone for the members that are not `fine` (K,); which those are, the host does not know."""
        touched = [*(p.data for p in self.parameters), *(t for tensors in self.state.values() for t in tensors)]
        before = [tensor.clone() for tensor in touched]
        # In double precision, as the host would count: a power of 0.999 in single precision is too coarse.
        self._update(lr, decay, (self.steps + 1 - scale.skipped).double())
        for tensor, old in zip(touched, before, strict=True):
            new = members_of(tensor, self.members)
            new.copy_(torch.where(like(fine, new), new, members_of(old, self.members)))
        scale.adapt(fine)

    def _add_decay(self, decay: Tensor) -> None:
        """Add decay * parameter to the gradients, as an L2 penalty does."""
        for i in self._decayed:
            grad = members_of(self._grad(i), self.members)
            grad.add_(self._stacked[i] * like(decay, grad))

    def _grad(self, index: int) -> Tensor:
        grad = self.parameters[index].grad
        assert grad is not None, "every parameter of a stacked model takes part in the loss"
        return grad

    def _numbers(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64).to(self.parameters[0])

    def state_dict(self) -> dict[str, Tensor]:
        """Moments under `<name>.<i>`, the loss scale under `scale.<name>`; members in the first axis."""
        state = {f"{name}.{i}": t for name, tensors in self.state.items() for i, t in enumerate(tensors)}
        return state | ({} if self.loss_scale is None else self.loss_scale.state_dict())

    def load_state_dict(self, state: dict[str, Tensor], steps: int) -> None:
        """Take over a state as given by `state_dict` and the number of steps made so far."""
        self.steps = steps
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])


def like(per_member: Tensor, stacked: Tensor) -> Tensor:
    """(K,) in a shape that broadcasts over (K, ...)."""
    return per_member.view(-1, *[1] * (stacked.ndim - 1))


def norms(stacked: Tensor) -> Tensor:
    """The Euclidean norm of each member of (K, ...), as (K,)."""
    return torch.linalg.vector_norm(stacked, dim=tuple(range(1, stacked.ndim))) if stacked.ndim > 1 else stacked.abs()


def total_norms(stacked: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm (K,) of all tensors (K, ...) of each member together."""
    return torch.linalg.vector_norm(torch.stack([norms(tensor) for tensor in stacked]), dim=0)
