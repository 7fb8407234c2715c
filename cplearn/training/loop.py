"""Training and evaluation of a pack: K trials that differ in numbers only, as one model. K = 1 is a lone trial."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cplearn import augment, backbones, optim, stacked, streams
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset, Split
from cplearn.dictionary.products import counts
from cplearn.distributed import Ranks, synchronise
from cplearn.errors import InputError
from cplearn.evaluate import protocol
from cplearn.evaluate.protocol import Outcome
from cplearn.methods.base import GLOBAL_VIEWS, Batch, Progress
from cplearn.methods.parts import ema
from cplearn.model import Model
from cplearn.training.online import OnlineProbe
from cplearn.views import batches

__all__ = ["Footprint", "Outcome", "Pack", "check", "footprint", "train"]

Log = Callable[[int, int, dict[str, float]], None]
"""log(member, epoch, metrics): called once an epoch for each member that is still alive."""


def train(
    trials: Sequence[TrialSettings],
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


def check(trials: Sequence[TrialSettings], dataset: Dataset, ranks: int = 1) -> None:
    """Raise InputError where trials cannot be trained on this data set, not in so many processes, or not together."""
    for trial in trials:
        images = len(training_split(trial, dataset).images)
        if trial.method.trains and trial.batch_size > images:
            raise InputError(
                f"batch_size {trial.batch_size} is larger than the {images} training images of {dataset.name}",
                key="batch_size",
            )
        crops = [_local_size(trial, dataset.image_size)] if trial.augment.local_views else []
        if trial.method.trains:
            Ranks(0, ranks).part(trial.batch_size)
        backbones.check(trial.backbone, dataset.channels, dataset.image_size, crops, shared=ranks > 1)
        check_evaluation(trial, dataset)
    if len(trials) > 1 and not all(trial.stackable for trial in trials):
        raise ValueError("trials with a timm model cannot share a pack")
    signatures = [trial.pack_signature() for trial in trials] if len(trials) > 1 else []
    for signature in signatures[1:]:
        differing = [key for key in signature if signature[key] != signatures[0].get(key)]
        if differing or signature.keys() != signatures[0].keys():
            raise ValueError(f"trials that differ in {', '.join(differing) or 'method'} cannot share a pack")


def training_split(trial: TrialSettings, dataset: Dataset) -> Split:
    """The images that a trial is trained on: unlabelled ones too, unless its method needs labels."""
    return dataset.train if trial.method.supervised else dataset.pretrain


def check_evaluation(trial: TrialSettings, dataset: Dataset) -> None:
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
    `data_root` is where the data sets of `evaluation.transfer` lie, see `cplearn.data.load`. With `ranks` of more than
    one process each trains on its part of every batch (`cplearn.distributed`); all make the same calls of
    `train_epoch`, and any of them can evaluate or be saved.

    Raises InputError if the trials do not fit the data set or the ranks, ValueError if they cannot share a pack.
    """

    def __init__(
        self,
        trials: Sequence[TrialSettings],
        dataset: Dataset,
        device: torch.device | str = "cpu",
        *,
        compile: bool = False,
        data_root: Path | None = None,
        ranks: Ranks = Ranks(),  # noqa: B008 (immutable)
    ) -> None:
        check(trials, dataset, ranks.size)
        self.trials, self.dataset, self.device, self.ranks = list(trials), dataset, torch.device(device), ranks
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
        for backbone in filter(None, (self.model.backbone, self.model.teacher)):
            synchronise(backbone, ranks, first.batch_size)
        # Their parameters are the model's; evaluation, rare and of other shapes, is not worth compiling for.
        self.backbone = torch.compile(self.model.backbone) if compile else self.model.backbone
        self.teacher: Callable[[Tensor], Tensor] | None = self.model.teacher
        if compile and self.model.teacher is not None:
            self.teacher = torch.compile(self.model.teacher)
        split = training_split(first, dataset)
        self.views = _Views(self.trials, split, self.device, ranks)
        self.steps_per_epoch = len(split.images) // first.batch_size
        self.seconds = [0.0] * len(self.trials)
        self.online: OnlineProbe | None = None
        if first.method.trains and first.evaluation.online_probe:
            online = OnlineProbe(self.trials, self.model.backbone.features, dataset.n_classes, self.steps_per_epoch)
            self.online = online.start(self.device, self.model.dtype)
        if first.method.trains:
            settings = [trial.optimizer for trial in self.trials]
            self.optimizer = optim.build(
                settings,
                [p for p in self.model.parameters() if p.requires_grad],
                first.epochs * self.steps_per_epoch,
                scaled=first.precision == "float16",
            )
            rates = optim.learning_rates(settings, first.epochs, self.steps_per_epoch, first.batch_size)
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
        noise = streams.generator(streams.stream(self.trials[0]), "drop path", self.epoch, self.device)
        backbones.drop_from(self.model.backbone, noise)
        for views, labels in self.views.epoch(self.epoch):
            loss, terms = self._step(views, labels, step)
            step += 1
            for name, value in {"loss": loss, **terms}.items():
                value = value.detach()
                totals[name] = totals[name] + value if name in totals else value
        # The only moment in an epoch at which the host waits for the device.
        means = {name: (total / self.steps_per_epoch).tolist() for name, total in totals.items()}
        seconds = time.perf_counter() - start
        self.seconds = [before + seconds for before in self.seconds]
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

    def _step(self, views: Sequence[Tensor], labels: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Update `step` of all members, on views and labels as `_Views.epoch` yields them; returns losses and terms."""
        method, progress = self.model.method, Progress(step, self.steps_per_epoch, self.epochs)
        features = self._features(self.backbone, views)
        teacher = None
        if self.teacher is not None:
            with torch.no_grad():
                teacher = self._features(self.teacher, views[:1])
        loss, terms = method(Batch(features, labels, progress, teacher))
        # The members share no parameter, so the gradient of the sum is every member's own gradient.
        self.optimizer.scaled(loss).sum().backward()
        self.ranks.add_up(self.model.backbone.parameters())
        self.ranks.average(method.parameters())
        method.before_update(progress)
        self.optimizer.step(self.rates[step])
        method.after_update(progress)
        if self.model.teacher is not None:
            momentum = method.momentum(progress)
            assert momentum is not None, "a method has a teacher for the whole training or not at all"
            ema.follow(self.model.teacher, self.model.backbone, momentum)
        if self.online is not None:
            terms = {**terms, **self.online.step(features[:, :GLOBAL_VIEWS].detach(), labels)}
        return loss, terms

    def _features(self, backbone: Callable[[Tensor], Tensor], views: Sequence[Tensor]) -> Tensor:
        """Features (K, V, n, F) of the views of every size, in their order, and of all processes."""
        half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.trials[0].precision)
        n = self.trials[0].batch_size // self.ranks.size
        with torch.autocast(self.device.type, half, enabled=half is not None):
            each = [backbone(self.model.prepare(images)) for images in views]
        each = [features.to(self.model.dtype).unflatten(1, (-1, n)) for features in each]
        return self.ranks.gather(each[0] if len(each) == 1 else torch.cat(each, dim=1))

    def evaluate(self) -> list[Outcome]:
        """Every evaluator on the frozen backbones, after the last epoch; see `cplearn.evaluate.protocol`."""
        outcomes = protocol.run(self.model, self.dataset, self.transfer, self.failures)
        for outcome, seconds in zip(outcomes, self.seconds, strict=True):
            if outcome.failure is None:
                outcome.metrics["time/train_s"] = seconds
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
            "seconds": self.seconds[member],
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
        self.epoch, self.seconds = epochs.pop(), [state["seconds"] for state in states]
        self.failures = {k: state["failure"] for k, state in enumerate(states) if state["failure"]}
        self.model.load_state_dict(stacked.stack_members([state["model"] for state in states]))
        moments = stacked.stack_members([state["optimizer"] for state in states])
        self.optimizer.load_state_dict(moments, self.epoch * self.steps_per_epoch)
        if self.online is not None:
            self.online.load_member_states([s["online"] for s in states], self.epoch * self.steps_per_epoch)


class Footprint(NamedTuple):
    """What one more member costs a pack in training."""

    memory: int
    """Bytes of weights, gradients, the optimiser's moments, buffers, and what a step keeps for its backward pass: also
    the batch as the first layer sees it, which members may share, but not the data set."""
    operations: int
    """Floating-point operations of the products and convolutions of a step, forward and backward."""


def footprint(trial: TrialSettings, dataset: Dataset) -> Footprint:
    """The footprint of a member like this trial, measured on one step of it alone."""
    from torch.utils.flop_counter import FlopCounterMode  # it imports a compiler

    # Data sets of the evaluation have no part in it, and may lie elsewhere; and a training of no epochs has no step.
    evaluation = trial.evaluation.model_copy(update={"transfer": []})
    changes: dict[str, Any] = {"evaluation": evaluation, "epochs": max(trial.epochs, 1)}
    if not trial.epochs:
        changes["optimizer"] = trial.optimizer.model_copy(update={"warmup_epochs": 0.0})
    pack = Pack([trial.model_copy(update=changes)], dataset)
    weights = sum(p.nbytes for p in pack.model.parameters() if p.requires_grad)
    averages = sum(p.nbytes for p in pack.model.parameters()) - weights
    state = 4 * weights + averages + sum(b.nbytes for b in pack.model.buffers())
    if not trial.method.trains:
        return Footprint(state, 0)
    moments = len(pack.optimizer.moments)
    # A scaled loss needs a copy of weights and moments, to take a member's update back.
    state += (moments - 2 + (1 + moments if pack.optimizer.loss_scale else 0)) * weights
    kept: dict[int, int] = {p.untyped_storage().data_ptr(): 0 for p in pack.model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    batch, counter = next(pack.views.epoch(0)), FlopCounterMode(display=False, custom_mapping=counts())
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), counter:
        pack._step(*batch, 0)
    return Footprint(state + sum(kept.values()), counter.get_total_flops())


def _local_size(trial: TrialSettings, image_size: int) -> int:
    return trial.augment.local_size or image_size // 2


_AHEAD = 2**15
"""Values of images whose views are made in one go: for small images, calls cost less one after the other than with a
training step in between, whose data drives theirs out of the caches."""


class _Views:
    """The augmented batches of a pack, made on its device; members with equal draws share them."""

    def __init__(
        self,
        trials: Sequence[TrialSettings],
        split: Split,
        device: torch.device,
        ranks: Ranks = Ranks(),  # noqa: B008 (immutable)
    ) -> None:
        first = trials[0]
        self.part = ranks.part(first.batch_size) if first.method.trains else slice(None)
        self.batch_size, self.dtype = first.batch_size, torch.float64 if first.precision == "float64" else torch.float32
        self.n_images, self.device = len(split.images), device
        draws = [(streams.stream(trial), trial.augment.strength) for trial in trials]
        self.draws = list(dict.fromkeys(draws))
        # One recipe an image size, each with a stream of its own: local crops leave the draws of the two views alone.
        recipes = {"views": augment.recipe(first.augment.recipe)}
        local = first.augment
        if local.local_views:
            size, scale = _local_size(first, split.images.shape[-1]), (local.local_scale_min, local.local_scale_max)
            recipes["local"] = augment.local_crops(recipes["views"], local.local_views, size, scale)
        self.source = batches.source(split.images, recipes, device, self.draws, ranks)
        self.labels = split.labels.to(self.source.rows_on)
        values = self.batch_size * len(self.draws) * math.prod(split.images.shape[1:])
        self.ahead = max(1, _AHEAD // values)
        self.member_draw = torch.tensor([self.draws.index(draw) for draw in draws], device=device)

    def epoch(self, epoch: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Views and labels of each batch.

        Views are in [0, 1], one tensor an image size, the global views before the local crops: (V*n, C, H, W) if all
        members share their draws, else (V*n, K*C, H, W). Labels are (K, n). Of several processes, each has the views of
        its part of the batch, and all labels.
        """
        made = self._made(epoch)
        while some := list(itertools.islice(made, self.ahead)):
            yield from some

    def _made(self, epoch: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        orders = []
        generators: dict[str, list[torch.Generator]] = {name: [] for name in self.source.recipes}
        for stream, _ in self.draws:
            order = torch.randperm(self.n_images, generator=streams.generator(stream, "order", epoch))
            orders.append(order.to(self.source.rows_on))
            for name, own in generators.items():
                own.append(streams.generator(stream, name, epoch, self.device))
        starts = range(0, self.n_images - self.batch_size + 1, self.batch_size)
        rows = [[order[start : start + self.batch_size] for order in orders] for start in starts]
        parts = [[own[self.part] for own in chosen] for chosen in rows]
        for chosen, batch in zip(rows, self.source.batches(parts, epoch), strict=True):
            views = [
                self._augment(recipe, batch[name], generators[name]) for name, recipe in self.source.recipes.items()
            ]
            yield views, torch.stack([self.labels[own] for own in chosen]).to(self.device)[self.member_draw]

    def _augment(self, recipe: augment.Recipe, batch: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        size = batch.shape[-1]
        drawn = [
            recipe.sample(self.batch_size, size, generator, strength)
            for generator, (_, strength) in zip(generators, self.draws, strict=True)
        ]
        params = [augment.Draws(*(numbers[self.part] for numbers in own)) for own in drawn]
        views = recipe.apply(batch, augment.stack_params(params), dtype=self.dtype)
        if len(self.draws) == 1:
            return views.flatten(0, 1)
        # (V, D*n, C, H, W) to one block of channels a member.
        by_draw = views.unflatten(1, (len(self.draws), -1)).movedim(1, 0)
        by_member = by_draw[self.member_draw]
        return by_member.movedim(0, 2).flatten(2, 3).flatten(0, 1)
