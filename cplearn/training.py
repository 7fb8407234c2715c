"""Training and evaluation of a pack: K trials that differ in numbers only, as one model. K = 1 is a lone trial."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cplearn import augment, optim, protocol, stacked, streams
from cplearn.config import Trial
from cplearn.data import Dataset
from cplearn.errors import InputError
from cplearn.model import Model
from cplearn.online import OnlineProbe
from cplearn.protocol import Outcome

__all__ = ["Outcome", "Pack", "check", "member_bytes", "train"]

Log = Callable[[int, int, dict[str, float]], None]
"""log(member, epoch, metrics): called once an epoch for each member that is still alive."""


def train(
    trials: Sequence[Trial],
    dataset: Dataset,
    *,
    device: torch.device | str = "cpu",
    log: Log = lambda member, epoch, metrics: None,
    save_to: Sequence[Path] | None = None,
    data_root: Path | None = None,
) -> list[Outcome]:
    """Train and evaluate a pack from beginning to end; see `Pack` for the arguments and errors.

    `save_to` names one folder a member for its files, see `Pack.save_member`.
    """
    pack = Pack(trials, dataset, device, data_root=data_root)
    while not pack.finished:
        for member, metrics in pack.train_epoch():
            log(member, pack.epoch, metrics)
    outcomes = pack.evaluate()
    for member, folder in enumerate(save_to or []):
        if outcomes[member].failure is None:
            pack.save_member(member, folder, outcomes[member])
    return outcomes


def check(trials: Sequence[Trial], dataset: Dataset) -> None:
    """Raise InputError where trials cannot be trained on this data set, or not together."""
    for trial in trials:
        if trial.method.trains and trial.batch_size > len(dataset.train.images):
            raise InputError(
                f"batch_size {trial.batch_size} is larger than the {len(dataset.train.images)} training images "
                f"of {dataset.name}",
                key="batch_size",
            )
        halvings = {"resnet8": 2, "resnet8-slim": 2, "pixels": 0}[trial.backbone.name]
        if dataset.image_size < 2**halvings:
            raise InputError(f"images of {dataset.image_size} pixels are too small for backbone {trial.backbone.name}")
        check_evaluation(trial, dataset)
    signatures = [trial.pack_signature() for trial in trials]
    for signature in signatures[1:]:
        differing = [key for key in signature if signature[key] != signatures[0].get(key)]
        if differing or signature.keys() != signatures[0].keys():
            raise ValueError(f"trials that differ in {', '.join(differing) or 'method'} cannot share a pack")


def check_evaluation(trial: Trial, dataset: Dataset) -> None:
    """Raise InputError where a trial's evaluation asks for more than the data set has."""
    most = max(trial.evaluation.gmm_components, default=0)
    if most > len(dataset.test.images):
        raise InputError(
            f"evaluation.gmm_components {most} are more than the {len(dataset.test.images)} test images of "
            f"{dataset.name}",
            key="evaluation.gmm_components",
        )


class Pack:
    """K trials in training on one device.

    Every member's numbers are those it would have alone: it has its own weights, BatchNorm statistics, optimiser state,
    learning rate and random streams. A member whose loss is no longer finite stops; the others do not notice.
    `compile` runs the backbone through `torch.compile`, which takes a while at first and rounds a little differently.
    `data_root` is where the data sets of `evaluation.transfer` lie, see `cplearn.data.load`.

    Raises InputError if the trials do not fit the data set, ValueError if they cannot share a pack.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        dataset: Dataset,
        device: torch.device | str = "cpu",
        *,
        compile: bool = False,
        data_root: Path | None = None,
    ) -> None:
        check(trials, dataset)
        self.trials, self.dataset, self.device = list(trials), dataset, torch.device(device)
        first = self.trials[0]
        self.epochs, self.epoch = first.epochs, 0
        self.failures: dict[int, str] = {}
        self.transfer = protocol.load_transfer(first, dataset.image_size, data_root)
        images = {
            "channels": dataset.channels,
            "image_size": dataset.image_size,
            "mean": dataset.mean,
            "std": dataset.std,
            "classes": list(dataset.classes),
        }
        self.model = Model(self.trials, images).to(self.device).to(memory_format=torch.channels_last)
        # Its parameters are the model's; evaluation, rare and of other shapes, is not worth compiling for.
        self.backbone = torch.compile(self.model.backbone) if compile else self.model.backbone
        labels = dataset.train.labels if first.evaluation.online_probe else None
        self.views = _Views(self.trials, dataset.train.images, self.device, labels)
        self.steps_per_epoch = len(dataset.train.images) // first.batch_size
        self.seconds = 0.0
        self.online: OnlineProbe | None = None
        if first.method.trains and first.evaluation.online_probe:
            online = OnlineProbe(self.trials, self.model.backbone.features, dataset.n_classes, self.steps_per_epoch)
            self.online = online.start(self.device, self.model.dtype)
        if first.method.trains:
            settings = [trial.optimizer for trial in self.trials]
            self.optimizer = optim.build(settings, self.model.parameters())
            rates = optim.learning_rates(settings, first.epochs, self.steps_per_epoch)
            self.rates = rates.to(self.device, self.model.dtype)

    @property
    def finished(self) -> bool:
        """No epoch is left, or no member."""
        return self.epoch >= self.epochs or len(self.failures) == len(self.trials)

    def train_epoch(self) -> list[tuple[int, dict[str, float]]]:
        """One pass over the training images; returns (member, metrics) of the members that are alive.

        Metrics are means over the epoch's steps: `train/loss` and the method's terms, `train/lr` and
        `train/images_per_second` (images of one member; views counted once).
        """
        start = time.perf_counter()
        self.model.train()
        totals: dict[str, Tensor] = {}
        step = self.epoch * self.steps_per_epoch
        for images, labels in self.views.epoch(self.epoch):
            loss, terms = self._step(images, labels, self.rates[step])
            step += 1
            for name, value in {"loss": loss, **terms}.items():
                value = value.detach()
                totals[name] = totals[name] + value if name in totals else value
        # The only moment in an epoch at which the host waits for the device.
        means = {name: (total / self.steps_per_epoch).tolist() for name, total in totals.items()}
        seconds = time.perf_counter() - start
        self.seconds += seconds
        self.epoch += 1
        rate = self.rates[step - 1].tolist()
        speed = self.steps_per_epoch * self.trials[0].batch_size / seconds
        alive = []
        for k in range(len(self.trials)):
            if k in self.failures:
                continue
            if not math.isfinite(means["loss"][k]):
                self.failures[k] = (
                    f"the loss became {means['loss'][k]} in epoch {self.epoch}; try a lower learning rate"
                )
                continue
            metrics = {f"train/{name}": values[k] for name, values in means.items()}
            alive.append((k, metrics | {"train/lr": rate[k], "train/images_per_second": speed}))
        return alive

    def _step(self, images: Tensor, labels: Tensor | None, lr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """One update of all members; images: (V*n, C or K*C, H, W), views in blocks; labels: (K, n), for the online
        probe alone. Returns losses and terms (K,).
        """
        bfloat16 = self.trials[0].precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
            features = self.backbone(self.model.prepare(images))
        features = features.to(self.model.dtype).unflatten(1, (-1, self.trials[0].batch_size))
        loss, terms = self.model.method(features)
        # The members share no parameter, so the gradient of the sum is every member's own gradient.
        loss.sum().backward()
        self.optimizer.step(lr)
        if self.online is not None and labels is not None:
            terms = {**terms, **self.online.step(features.detach(), labels)}
        return loss, terms

    def evaluate(self) -> list[Outcome]:
        """Every evaluator on the frozen backbones, after the last epoch; see `cplearn.protocol`."""
        outcomes = protocol.run(self.model, self.dataset, self.transfer, self.failures)
        for outcome in outcomes:
            if outcome.failure is None:
                outcome.metrics["time/train_s"] = self.seconds
        return outcomes

    def save_member(self, member: int, folder: Path, outcome: Outcome) -> None:
        """Write one member's model to `folder`/model, its diagnostics to `folder`/diagnostics.json, and its arrays to
        `folder`/evaluation.npz, which `numpy.load` reads without pickle."""
        self.model.save_member(member, folder / "model")
        (folder / "diagnostics.json").write_text(json.dumps(outcome.diagnostics))
        np.savez_compressed(folder / "evaluation.npz", **outcome.arrays)  # type: ignore[arg-type]

    def member_state(self, member: int) -> dict[str, Any]:
        """All that one member needs to go on, alone or in another pack: weights, optimiser state, epoch."""
        own = stacked.take_member(self.optimizer.state_dict(), member, len(self.trials))
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "failure": self.failures.get(member),
            "model": self.model.member_state(member),
            "optimizer": {name: tensor.cpu() for name, tensor in own.items()},
            **({"online": self.online.member_state(member)} if self.online else {}),
        }

    def load_member_states(self, states: Sequence[dict[str, Any]]) -> None:
        """Go on where `member_state` left off, one state a member; raises ValueError unless all are of one epoch."""
        epochs = {state["epoch"] for state in states}
        if len(epochs) != 1 or len(states) != len(self.trials):
            raise ValueError(f"{len(states)} states of epochs {sorted(epochs)} for a pack of {len(self.trials)}")
        self.epoch, self.seconds = epochs.pop(), states[0]["seconds"]
        self.failures = {k: state["failure"] for k, state in enumerate(states) if state["failure"]}
        self.model.load_state_dict(stacked.stack_members([state["model"] for state in states]))
        moments = stacked.stack_members([state["optimizer"] for state in states])
        self.optimizer.load_state_dict(moments, self.epoch * self.steps_per_epoch)
        if self.online is not None:
            self.online.load_member_states([s["online"] for s in states], self.epoch * self.steps_per_epoch)


def member_bytes(trial: Trial, dataset: Dataset) -> int:
    """Memory in bytes that one more member adds to a pack in training, measured on one step of the trial alone.

    Counted are weights, gradients, two moments, buffers, and what the step keeps for its backward pass. What all
    members share (data, views) is not.
    """
    # Data sets of the evaluation have no part in it, and may lie elsewhere.
    evaluation = trial.evaluation.model_copy(update={"transfer": []})
    pack = Pack([trial.model_copy(update={"evaluation": evaluation})], dataset)
    state = sum(4 * p.nbytes for p in pack.model.parameters()) + sum(b.nbytes for b in pack.model.buffers())
    if not trial.method.trains:
        return state
    kept: dict[int, int] = {p.untyped_storage().data_ptr(): 0 for p in pack.model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        pack._step(*next(pack.views.epoch(0)), pack.rates[0])
    return state + sum(kept.values())


class _Views:
    """The augmented batches of a pack, made on its device; members with equal draws share them."""

    def __init__(
        self, trials: Sequence[Trial], images: Tensor, device: torch.device, labels: Tensor | None = None
    ) -> None:
        first = trials[0]
        self.batch_size, self.dtype = first.batch_size, torch.float64 if first.precision == "float64" else torch.float32
        self.recipe = augment.recipe(first.augment.recipe)
        self.images, self.device = images.to(device), device
        self.labels = None if labels is None else labels.to(device)
        draws = [(streams.stream(trial), trial.augment.strength) for trial in trials]
        self.draws = list(dict.fromkeys(draws))
        self.member_draw = torch.tensor([self.draws.index(draw) for draw in draws], device=device)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches (V*n, C, H, W) in [0, 1] if all members share their draws, else (V*n, K*C, H, W).

        With each its labels (K, n), where labels were given.
        """
        orders, generators = [], []
        for stream, _ in self.draws:
            order = torch.randperm(len(self.images), generator=streams.generator(stream, "order", epoch))
            orders.append(order.to(self.device))
            generators.append(streams.generator(stream, "views", epoch, self.device))
        for start in range(0, len(self.images) - self.batch_size + 1, self.batch_size):
            chosen = [order[start : start + self.batch_size] for order in orders]
            batch = torch.cat([self.images[rows] for rows in chosen])
            labels = None
            if self.labels is not None:
                labels = torch.stack([self.labels[rows] for rows in chosen])[self.member_draw]
            yield self._augment(batch, generators), labels

    def _augment(self, batch: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        size = batch.shape[-1]
        params = [
            self.recipe.sample(self.batch_size, size, generator, strength)
            for generator, (_, strength) in zip(generators, self.draws, strict=True)
        ]
        views = self.recipe.apply(batch, augment.stack_params(params), dtype=self.dtype)
        if len(self.draws) == 1:
            return views.flatten(0, 1)
        # (V, D*n, C, H, W) to one block of channels a member.
        by_draw = views.unflatten(1, (len(self.draws), -1)).movedim(1, 0)
        by_member = by_draw[self.member_draw]
        return by_member.movedim(0, 2).flatten(2, 3).flatten(0, 1)
