"""The online probe: a linear classifier that learns beside the backbone and never touches it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cplearn import optim, stacked, streams
from cplearn.config.groups import OptimizerSettings
from cplearn.config.trial import TrialSettings


class OnlineProbe(nn.Module):
    """K linear classifiers on detached backbone features of augmented training images, one update a step.

    The authors' configuration (solo-learn): cross-entropy, averaged over the views; the method's Adam without weight
    decay, at `evaluation.online_lr` under the method's schedule. Weights are drawn from the stream "online", so a
    trial's other numbers are the same with and without it. It sees training images with the augmentation of training:
    its accuracy is a sign of progress, not a result.
    """

    def __init__(self, trials: Sequence[TrialSettings], features: int, classes: int, steps_per_epoch: int) -> None:
        super().__init__()
        members = len(trials)
        self.linear = stacked.Linear(members, features, classes, bias=True)
        stacked.initialise(self.linear, [streams.generator(streams.stream(trial), "online") for trial in trials])
        shared = ("schedule", "warmup_epochs", "warmup_lr")
        self.settings = [
            OptimizerSettings(
                name="adam", lr=trial.evaluation.online_lr, **{key: getattr(trial.optimizer, key) for key in shared}
            )
            for trial in trials
        ]
        self.rates = optim.learning_rates(self.settings, trials[0].epochs, steps_per_epoch)

    def start(self, device: torch.device, dtype: torch.dtype) -> OnlineProbe:
        """Move to where the features are, and make the optimiser there."""
        self.to(device, dtype)
        self.rates = self.rates.to(device, dtype)
        self.optimizer = optim.build(self.settings, self.parameters())
        return self

    def step(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One update from features (K, V, n, F) without gradient and labels (K, n), -1 where there is none.

        Returns `online_loss` and `online_accuracy` before the update, each (K,), over views and labelled images. The
        host does not wait for the device.
        """
        views = features.shape[1]
        logits = self.linear(features.flatten(1, 2))
        target = labels.repeat(1, views)
        known = target >= 0
        counted = known.sum(1).clamp(min=1)
        each = F.cross_entropy(logits.transpose(1, 2), target, ignore_index=-1, reduction="none")
        loss = each.sum(1) / counted
        loss.sum().backward()
        self.optimizer.step(self.rates[self.optimizer.steps])
        accuracy = ((logits.argmax(2) == target) & known).sum(1).to(loss.dtype) / counted
        return {"online_loss": loss.detach(), "online_accuracy": accuracy}

    def member_state(self, member: int) -> dict[str, Tensor]:
        """Weights and moments of one member, on the CPU."""
        members = self.linear.weight.shape[0]
        moments = {f"optimizer.{name}": tensor for name, tensor in self.optimizer.state_dict().items()}
        own = stacked.take_member({**self.state_dict(), **moments}, member, members)
        return {name: tensor.cpu() for name, tensor in own.items()}

    def load_member_states(self, states: Sequence[dict[str, Tensor]], steps: int) -> None:
        """Go on where `member_state` left off, after `steps` updates; one state a member."""
        state = stacked.stack_members(states)
        moments = {name: state.pop(name) for name in list(state) if name.startswith("optimizer.")}
        self.load_state_dict(state)
        self.optimizer.load_state_dict({name.removeprefix("optimizer."): t for name, t in moments.items()}, steps)
