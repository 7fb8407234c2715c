"""Optimisers of torch and timm as the settings ask for them, with the schedules of learning rate and weight decay."""

import json
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cplearn.config.groups import OptimizerSettings

REFERENCE_BATCH = 256  # Images a step for which a learning rate is meant that `scale_lr` adapts (Goyal et al. 2017).


def build(settings: OptimizerSettings, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimiser of these parameters; `Schedule` sets its learning rate and weight decay.

    Weight decay, and LARS' own step size for every layer, spare norms and biases, which have one axis, unless
    `decay_norms` is set. Then LARS without `trust_clip` is that of You et al. (2017), which excludes nothing.
    """
    trained = [p for p in parameters if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "decayed": True},
        {"params": [p for p in trained if p.ndim <= 1], "decayed": settings.decay_norms},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.name == "lars":
        from timm.optim import Lars  # timm takes seconds to import

        groups = [group | {"always_adapt": group["decayed"]} for group in groups]
        trust = {"trust_coeff": settings.eta, "trust_clip": settings.trust_clip}
        return Lars(groups, momentum=settings.momentum, **trust, foreach=True)
    # Fused updates are the quickest on CPU and GPU alike (an Adam of 150,000 weights: a third of the time of foreach).
    if settings.name == "sgd":
        sgd = _eager(torch.optim.SGD)(groups, lr=1.0, momentum=settings.momentum, fused=True)
        for parameter in trained:
            # The fused SGD makes its buffers in the first update, and fails where a layer is frozen in it, or where
            # its gradients overflow in float16. An update from zeros is the same.
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    adam = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return _eager(adam)(groups, lr=1.0, weight_decay=0.0, fused=True)


def _eager(kind: Any) -> Any:
    """A class of optimisers without torch's decorators, the first call of which imports its compiler, for 2 s of every
    worker: they are for an update within a compiled function, and ours is outside."""
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    plain = {name: getattr(kind, name).__wrapped__ for name in names}
    return type(kind.__name__, (kind,), plain | {"step": torch.no_grad()(kind.step.__wrapped__)})


class Schedule(LambdaLR):
    """The learning rate and the weight decay of every update, as functions of the number of updates made before it.

    The rate rises linearly from `warmup_lr` to the peak in the first w updates, those of `warmup_epochs`. Then it is
    constant, or follows a cosine,

        rate(s) = lr_end + (peak - lr_end) (1 + cos(π (s - w) / (S - w))) / 2

    after s of S updates, so that it would reach `lr_end` one update after the last. With `scale_lr` the peak, not the
    two ends, is `lr` times the batch size over 256. The weight decay goes from `weight_decay` to `weight_decay_end` on
    the same cosine over the whole training (w = 0), as in DINO. Call `step` after every update.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        settings: OptimizerSettings,
        epochs: int,
        steps_per_epoch: int,
        batch_size: int = REFERENCE_BATCH,
    ) -> None:
        self.settings, self.total = settings, epochs * steps_per_epoch
        self.warmup = round(settings.warmup_epochs * steps_per_epoch)
        self.peak = settings.lr * (batch_size / REFERENCE_BATCH if settings.scale_lr else 1)
        for group in optimizer.param_groups:
            group["lr"] = 1.0  # which LambdaLR multiplies by the rate
        super().__init__(optimizer, self.rate)

    def rate(self, step: int) -> float:
        """The learning rate of update `step`, counted from 0."""
        start, end = self.settings.warmup_lr, self.settings.lr_end
        if step < self.warmup:
            return start + (self.peak - start) * step / self.warmup
        if self.settings.schedule == "constant":
            return self.peak
        return end + (self.peak - end) * _cosine((step - self.warmup) / max(1, self.total - self.warmup))

    def weight_decay(self, step: int) -> float:
        """The weight decay of update `step`, counted from 0."""
        start, end = self.settings.weight_decay, self.settings.weight_decay_end
        return start if end is None else end + (start - end) * _cosine(step / max(1, self.total))

    def step(self, epoch: int | None = None) -> None:
        # torch warns where no update came before, as happens in float16: the first update may have overflowed.
        self.optimizer._opt_called = True  # type: ignore[attr-defined]
        super().step(epoch)
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.weight_decay(self.last_epoch) if group["decayed"] else 0.0

    def restore(self, state: dict[str, Any], steps: int) -> None:
        """Go on as after `steps` updates, with the state that the optimiser had then.

        Raises ValueError, or what such a content raises, for a state that does not fit: fused updates do not look at
        shapes, and would write beyond the tensors.
        """
        wanted, given = (
            [{key: value for key, value in group.items() if key not in ("lr", "weight_decay")} for group in groups]
            for groups in (self.optimizer.state_dict()["param_groups"], state["param_groups"])
        )
        is_adam = isinstance(self.optimizer, torch.optim.Adam | torch.optim.AdamW)
        names = {"step", "exp_avg", "exp_avg_sq"} if is_adam else {"momentum_buffer"}
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        # As text, because comparing a tensor that stands in place of a number could need any amount of memory.
        fits = json.dumps(wanted) == json.dumps(given) and all(
            tensors.keys() == names
            and all(tensor.layout == torch.strided and tensor.is_floating_point() for tensor in tensors.values())
            and all(tensors[name].shape == (() if name == "step" else parameters[place].shape) for name in names)
            for place, tensors in state["state"].items()
        )
        if not fits:
            raise ValueError("the state is that of another optimiser")
        self.optimizer.load_state_dict(state)
        self.last_epoch = steps - 1
        self.step()


def _cosine(progress: float) -> float:
    """1 at the beginning, 0 at the end."""
    return 0.5 * (1 + math.cos(math.pi * progress))
