"""The online probe: a linear classifier that learns beside the backbone and never touches it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cplearn import streams
from cplearn.backbones import initialise
from cplearn.config.groups import OptimizerSettings
from cplearn.model import Model
from cplearn.training import optimisers


class OnlineProbe:
    """A linear classifier on detached backbone features of augmented training images, one update a step.

    The authors' configuration (solo-learn): cross-entropy, averaged over the views; the method's Adam without weight
    decay, at `evaluation.online_lr` under the method's schedule. Weights are drawn from the stream "online", so a
    trial's other numbers are the same with and without it. It sees training images with the augmentation of training:
    its accuracy is a sign of progress, not a result.
    """

    def __init__(self, model: Model, steps_per_epoch: int) -> None:
        trial = model.trial
        with torch.random.fork_rng(devices=[]):
            self.linear = nn.Linear(model.backbone.features, len(model.images["classes"]))
        initialise(self.linear, streams.generator(streams.stream(trial), "online"))
        self.linear.to(model.device, model.dtype)
        shared = {key: getattr(trial.optimizer, key) for key in ("schedule", "warmup_epochs", "warmup_lr")}
        settings = OptimizerSettings(name="adam", lr=trial.evaluation.online_lr, **shared)
        self.optimizer = optimisers.build(settings, self.linear.parameters())
        self.schedule = optimisers.Schedule(self.optimizer, settings, trial.epochs, steps_per_epoch)

    def step(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """One update from features (V, n, F) without gradient and labels (n,), -1 where there is none.

        Returns `online_loss` and `online_accuracy` before the update, scalars over views and labelled images. The host
        does not wait for the device.
        """
        logits, target = self.linear(features.flatten(0, 1)), labels.repeat(len(features))
        labelled = target >= 0
        count = labelled.sum().clamp(min=1)
        loss = F.cross_entropy(logits, target, ignore_index=-1, reduction="sum") / count
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        accuracy = ((logits.argmax(1) == target) & labelled).sum().to(loss.dtype) / count
        return {"online_loss": loss.detach(), "online_accuracy": accuracy}

    def state_dict(self) -> dict[str, Any]:
        """Weights and the state of the optimiser."""
        return {"linear": self.linear.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any], steps: int) -> None:
        """Go on where `state_dict` left off, after `steps` updates."""
        self.linear.load_state_dict(state["linear"])
        optimisers.restore(self.optimizer, state["optimizer"])
        self.schedule.resume(steps)
