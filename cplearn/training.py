"""Training and evaluation of a pack: K trials that differ in numbers only, as one model. K = 1 is a lone trial."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import threadpoolctl
import torch
from torch import Tensor

from cplearn import augment, evaluate, optim, stacked, streams
from cplearn.config import Trial
from cplearn.data import Dataset
from cplearn.errors import InputError
from cplearn.model import Model

Log = Callable[[int, int, dict[str, float]], None]
"""log(member, epoch, metrics): called once an epoch for each member that is still alive."""


@dataclass
class Outcome:
    """What became of one member.

    `metrics` are the final numbers, `diagnostics` the lists behind figures (singular values, code counts); `failure`
    is one sentence if the member diverged, and then the others are empty.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    diagnostics: dict[str, list[float]] = field(default_factory=dict)
    failure: str | None = None


def train(
    trials: Sequence[Trial],
    dataset: Dataset,
    *,
    device: torch.device | str = "cpu",
    log: Log = lambda member, epoch, metrics: None,
    save_to: Sequence[Path] | None = None,
) -> list[Outcome]:
    """Train and evaluate a pack from beginning to end; see `Pack` for the arguments and errors.

    `save_to` names one folder a member for its model and `diagnostics.json`.
    """
    pack = Pack(trials, dataset, device)
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
    signatures = [trial.pack_signature() for trial in trials] if len(trials) > 1 else []
    for signature in signatures[1:]:
        differing = [key for key in signature if signature[key] != signatures[0].get(key)]
        if differing or signature.keys() != signatures[0].keys():
            raise ValueError(f"trials that differ in {', '.join(differing) or 'method'} cannot share a pack")


class Pack:
    """K trials in training on one device.

    Every member's numbers are those it would have alone: it has its own weights, BatchNorm statistics, optimiser state,
    learning rate and random streams. A member whose loss is no longer finite stops; the others do not notice.
    `compile` runs the backbone through `torch.compile`, which takes a while at first and rounds a little differently.

    Raises InputError if the trials do not fit the data set, ValueError if they cannot share a pack.
    """

    def __init__(
        self, trials: Sequence[Trial], dataset: Dataset, device: torch.device | str = "cpu", *, compile: bool = False
    ) -> None:
        check(trials, dataset)
        self.trials, self.dataset, self.device = list(trials), dataset, torch.device(device)
        first = self.trials[0]
        self.epochs, self.epoch = first.epochs, 0
        self.failures: dict[int, str] = {}
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
        self.views = _Views(self.trials, dataset.train.images, self.device)
        self.steps_per_epoch = len(dataset.train.images) // first.batch_size
        self.seconds = 0.0
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
        for images in self.views.epoch(self.epoch):
            loss, terms = self._step(images, self.rates[step])
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

    def _step(self, images: Tensor, lr: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """One update of all members; images: (V*n, C or K*C, H, W), views in blocks. Returns losses and terms (K,)."""
        bfloat16 = self.trials[0].precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
            features = self.backbone(self.model.prepare(images))
        features = features.to(self.model.dtype).unflatten(1, (-1, self.trials[0].batch_size))
        loss, terms = self.model.method(features)
        # The members share no parameter, so the gradient of the sum is every member's own gradient.
        loss.sum().backward()
        self.optimizer.step(lr)
        return loss, terms

    def evaluate(self) -> list[Outcome]:
        """Every evaluator on the frozen backbones: the test split, after the last epoch.

        scikit-learn is held to torch's number of threads, so that trials side by side do not fight for the cores.
        """
        with threadpoolctl.threadpool_limits(torch.get_num_threads()):
            return self._evaluate()

    def _evaluate(self) -> list[Outcome]:
        start = time.perf_counter()
        train = self.model.features(self.dataset.train.images).cpu()
        test = self.model.features(self.dataset.test.images)
        embeddings = self.model.embeddings(test)
        codes = None if embeddings is None else self.model.method.codes(embeddings)
        outcomes = []
        for k, trial in enumerate(self.trials):
            if k in self.failures:
                outcomes.append(Outcome(failure=self.failures[k]))
                continue
            member = (x if x is None else x[k].cpu() for x in (embeddings, codes))
            try:
                outcomes.append(self._evaluate_member(trial, train[k], test[k].cpu(), *member))
            except evaluate.NonFiniteFeatures as error:
                # The very last update can still have thrown a member off.
                outcomes.append(Outcome(failure=str(error)))
        evaluation = time.perf_counter() - start
        for outcome in outcomes:
            if outcome.failure is None:
                outcome.metrics |= {"time/train_s": self.seconds, "time/evaluation_s": evaluation}
        return outcomes

    def _evaluate_member(
        self, trial: Trial, train: Tensor, test: Tensor, embeddings: Tensor | None, codes: Tensor | None
    ) -> Outcome:
        outcome, settings = Outcome(), trial.evaluation
        y_train, y_test = self.dataset.train.labels, self.dataset.test.labels
        chance = streams.numpy_generator(trial.seed, "chance")

        def results() -> Iterator[tuple[str, float]]:
            yield from evaluate.linear_probe(train, y_train, test, y_test, c=settings.probe_c)
            yield from evaluate.knn(
                train,
                y_train,
                test,
                y_test,
                neighbours=settings.knn_neighbours,
                temperature=settings.knn_temperature,
            )
            clusters = evaluate.kmeans(test, self.dataset.n_classes, restarts=settings.kmeans_restarts, seed=trial.seed)
            yield from evaluate.clustering("kmeans", y_test, clusters, generator=chance)
            if codes is not None:
                yield from evaluate.clustering("codes", y_test, codes, generator=chance)
            if embeddings is not None and codes is not None:
                yield from evaluate.collapse(embeddings, codes, self.model.method.n_codes)

        outcome.metrics.update(results())
        if embeddings is not None:
            outcome.diagnostics["singular_values"] = evaluate.singular_values(embeddings).tolist()
        if codes is not None:
            outcome.diagnostics["code_counts"] = evaluate.code_counts(codes, self.model.method.n_codes).tolist()
        return outcome

    def save_member(self, member: int, folder: Path, outcome: Outcome) -> None:
        """Write one member's model to `folder`/model and its diagnostics to `folder`/diagnostics.json."""
        self.model.save_member(member, folder / "model")
        (folder / "diagnostics.json").write_text(json.dumps(outcome.diagnostics))

    def member_state(self, member: int) -> dict[str, Any]:
        """All that one member needs to go on, alone or in another pack: weights, optimiser state, epoch."""
        own = stacked.take_member(self.optimizer.state_dict(), member, len(self.trials))
        return {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "failure": self.failures.get(member),
            "model": self.model.member_state(member),
            "optimizer": {name: tensor.cpu() for name, tensor in own.items()},
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


def member_bytes(trial: Trial, dataset: Dataset) -> int:
    """Memory in bytes that one more member adds to a pack in training, measured on one step of the trial alone.

    Counted are weights, gradients, two moments, buffers, and what the step keeps for its backward pass. What all
    members share (data, views) is not.
    """
    pack = Pack([trial], dataset)
    state = sum(4 * p.nbytes for p in pack.model.parameters()) + sum(b.nbytes for b in pack.model.buffers())
    if not trial.method.trains:
        return state
    kept: dict[int, int] = {p.untyped_storage().data_ptr(): 0 for p in pack.model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        pack._step(next(pack.views.epoch(0)), pack.rates[0])
    return state + sum(kept.values())


class _Views:
    """The augmented batches of a pack, made on its device; members with equal draws share them."""

    def __init__(self, trials: Sequence[Trial], images: Tensor, device: torch.device) -> None:
        first = trials[0]
        self.batch_size, self.dtype = first.batch_size, torch.float64 if first.precision == "float64" else torch.float32
        self.recipe = augment.recipe(first.augment.recipe)
        self.images, self.device = images.to(device), device
        draws = [(streams.stream(trial), trial.augment.strength) for trial in trials]
        self.draws = list(dict.fromkeys(draws))
        self.member_draw = torch.tensor([self.draws.index(draw) for draw in draws], device=device)

    def epoch(self, epoch: int) -> Iterator[Tensor]:
        """Batches (V*n, C, H, W) in [0, 1] if all members share their draws, else (V*n, K*C, H, W)."""
        orders, generators = [], []
        for stream, _ in self.draws:
            order = torch.randperm(len(self.images), generator=streams.generator(stream, "order", epoch))
            orders.append(order.to(self.device))
            generators.append(streams.generator(stream, "views", epoch, self.device))
        for start in range(0, len(self.images) - self.batch_size + 1, self.batch_size):
            batch = torch.cat([self.images[order[start : start + self.batch_size]] for order in orders])
            yield self._augment(batch, generators)

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
