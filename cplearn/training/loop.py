"""The training of one trial: data, model, step, schedule, evaluation."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cplearn import backbones, streams
from cplearn.config.groups import OptimizerSettings
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset, Split
from cplearn.data.cache import moments
from cplearn.dictionary.products import counts
from cplearn.distributed import ALONE, Ranks, synchronise
from cplearn.errors import refuse_if
from cplearn.evaluate import protocol
from cplearn.evaluate.protocol import Outcome, watch
from cplearn.methods import parts
from cplearn.methods.base import GLOBAL_VIEWS, Batch, Progress
from cplearn.model import Model
from cplearn.training import optimisers
from cplearn.views import TrainingViews, local_size


def train(
    trial: TrialSettings,
    dataset: Dataset,
    *,
    device: torch.device | str = "cpu",
    log: Callable[[dict[str, float], int], None] = lambda metrics, epoch: None,
    save_to: Path | None = None,
    data_root: Path | None = None,
) -> Outcome:
    """Train and evaluate a trial from beginning to end; see `TrialTraining` for the arguments and errors.

    `log(metrics, epoch)` is called once an epoch. `save_to` names a folder for the trial's files, see
    `TrialTraining.save`; a trial that diverged writes none.

    >>> from cplearn import data
    >>> small = {"epochs": 1, "train_images": 200, "test_images": 100, "backbone": {"name": "resnet8-slim", "width": 4}}
    >>> trial = TrialSettings.read({"method": "vicreg", **small})
    >>> outcome = train(trial, data.load(**trial.data_request()))
    >>> 0 < outcome.metrics["probe/accuracy"] <= 1
    True
    """
    training = TrialTraining(trial, dataset, device, data_root=data_root)
    while not training.finished:
        if metrics := training.train_epoch():
            log(metrics, training.epoch)
    outcome = training.evaluate()
    if save_to is not None and outcome.failure is None:
        training.save(save_to, outcome)
    return outcome


class TrialTraining:
    """A trial in training on one device.

    `compile` runs the backbone through `torch.compile`, which takes a while at first and rounds a little differently.
    `data_root` is where the data sets of `evaluation.transfer` lie, see `cplearn.data.load`. With `ranks` of more than
    one process each trains on its part of every batch (`cplearn.distributed`); all make the same calls of
    `train_epoch`, and any of them can evaluate or be saved.

    Raises InputError if the trial does not fit the data set or the ranks.
    """

    def __init__(
        self,
        trial: TrialSettings,
        dataset: Dataset,
        device: torch.device | str = "cpu",
        *,
        compile: bool = False,
        data_root: Path | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        check(trial, dataset, ranks.size)
        self.trial, self.dataset, self.device, self.ranks = trial, dataset, torch.device(device), ranks
        self.epochs, self.epoch, self.seconds = trial.epochs, 0, 0.0
        self.failure: str | None = None

        split = training_split(trial, dataset)
        self.views = TrainingViews(trial, split, self.device, ranks)
        self.steps_per_epoch = len(split.images) // trial.batch_size
        self.transfer = protocol.load_transfer(trial, dataset.image_size, data_root)

        self.model = on_device(Model(trial, describe(dataset, trial.normalisation)), self.device)
        for network in filter(None, (self.model.backbone, self.model.teacher)):
            synchronise(network, ranks, trial.batch_size)
        # Their parameters are the model's; evaluation, rare and of other shapes, is not worth compiling for.
        self.backbone: nn.Module = self.model.backbone
        self.teacher = self.model.teacher
        if compile:
            self.backbone = torch.compile(self.backbone)  # type: ignore[assignment]
            self.teacher = None if self.teacher is None else torch.compile(self.teacher)  # type: ignore[assignment]

        self.scaler = torch.amp.GradScaler(self.device.type, enabled=trial.precision == "float16")
        self.online: OnlineProbe | None = None
        if trial.method.trains:
            self.optimizer = optimisers.build(trial.optimizer, self.model.parameters())
            steps, images = self.steps_per_epoch, trial.batch_size
            self.schedule = optimisers.Schedule(self.optimizer, trial.optimizer, self.epochs, steps, images)
            if trial.evaluation.online_probe:
                self.online = OnlineProbe(self.model, self.steps_per_epoch)

    @property
    def finished(self) -> bool:
        """No epoch is left, or the trial has diverged."""
        return self.epoch >= self.epochs or self.failure is not None

    def train_epoch(self) -> dict[str, float]:
        """One pass over the training images; returns metrics, or none and sets `failure` where the loss is not finite.

        Metrics are means over the epoch's steps, `train/loss` and the method's terms, then `train/lr` of the last step,
        `train/images_per_second` (views counted once), and as often as the settings ask the diagnostics of `watch`.
        """
        start = time.perf_counter()
        self.model.train()
        noise = streams.generator(streams.stream(self.trial), "drop path", self.epoch, self.device)
        backbones.drop_from(self.model.backbone, noise)
        totals: dict[str, Tensor] = {}
        step = self.epoch * self.steps_per_epoch
        for views, labels in self.views.epoch(self.epoch):
            loss, terms = self.training_step(views, labels, step)
            for name, value in {"loss": loss, **terms}.items():
                totals[name] = totals[name] + value.detach() if name in totals else value.detach()
            step += 1
        # The only moment in an epoch at which the host waits for the device.
        means = {f"train/{name}": (total / self.steps_per_epoch).item() for name, total in totals.items()}
        seconds = time.perf_counter() - start
        speed = self.steps_per_epoch * self.trial.batch_size / seconds
        self.epoch += 1
        if not math.isfinite(means["train/loss"]):
            self.failure = f"the loss became {means['train/loss']} in epoch {self.epoch}; try a lower learning rate"
        else:
            means |= {"train/lr": self.schedule.rate(step - 1), "train/images_per_second": speed}
            asked = self.trial.evaluation
            if asked.watch_images and self.epoch % asked.watch_every == 0:
                # Of several processes each measures the same, since all have the same weights.
                watched = watch(self.model, self.dataset.train, asked.watch_images)
                means |= {f"train/{name}": value for name, value in watched}
        self.seconds += time.perf_counter() - start
        return {} if self.failure else means

    def training_step(self, views: Sequence[Tensor], labels: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Update number `step`, on views and labels as `TrainingViews.epoch` yields them; returns loss and terms."""
        method, progress = self.model.method, Progress(step, self.steps_per_epoch, self.epochs)
        features = self._features(self.backbone, views)
        with torch.no_grad():
            teacher = None if self.teacher is None else self._features(self.teacher, views[:1])
        loss, terms = method(Batch(features, labels, progress, teacher))
        self.scaler.scale(loss).backward()
        self.ranks.reduce(self.model.backbone.parameters())
        self.ranks.reduce(method.parameters(), mean=True)
        method.before_update(progress)
        self.scaler.unscale_(self.optimizer)
        if self.trial.optimizer.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.trial.optimizer.clip)
        # Gradients scaled for float16 that overflow are left out.
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.schedule.step()
        method.after_update(progress)
        momentum = method.momentum(progress)
        if self.model.teacher is not None and momentum is not None:
            parts.follow(self.model.teacher, self.model.backbone, momentum)
        if self.online is not None:
            terms = {**terms, **self.online.step(features[:GLOBAL_VIEWS].detach(), labels)}
        return loss, terms

    def _features(self, backbone: nn.Module, views: Sequence[Tensor]) -> Tensor:
        """Features (V, n, F) of the views of every size, in their order, and of all processes."""
        half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.trial.precision)
        n = self.trial.batch_size // self.ranks.size
        with torch.autocast(self.device.type, half, enabled=half is not None):
            features = [backbone(self.model.prepare(images)) for images in views]
        return self.ranks.gather(torch.cat([x.to(self.model.dtype).unflatten(0, (-1, n)) for x in features]))

    def evaluate(self) -> Outcome:
        """Every evaluator on the frozen backbone, after the last epoch; see `cplearn.evaluate.protocol`."""
        if self.failure is not None:
            return Outcome(failure=self.failure)
        outcome = protocol.run(self.model, self.dataset, self.transfer)
        if outcome.failure is None:
            outcome.metrics["time/train_s"] = self.seconds
        return outcome

    def save(self, folder: Path, outcome: Outcome) -> None:
        """Write the model to `folder`/model, diagnostics to `folder`/diagnostics.json, and arrays to
        `folder`/evaluation.npz, which `numpy.load` reads without pickle."""
        self.model.save(folder / "model")
        (folder / "diagnostics.json").write_text(json.dumps(outcome.diagnostics))
        np.savez_compressed(folder / "evaluation.npz", **outcome.arrays)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """All that the training needs to go on, as copies on the CPU: `torch.load` reads it with `weights_only`."""
        state = {
            "epoch": self.epoch,
            "seconds": self.seconds,
            "failure": self.failure,
            "model": self.model.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        if self.trial.method.trains:
            state["optimizer"] = self.optimizer.state_dict()
        if self.online is not None:
            state["online"] = self.online.state_dict()
        return _on_cpu(state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` left off, on a CPU to the same bits as if never stopped.

        Raises almost anything where the state is not that of such a training, which is of no use then.
        """
        self.epoch, self.seconds, self.failure = int(state["epoch"]), float(state["seconds"]), state["failure"]
        if self.epoch > self.epochs or not isinstance(self.failure, str | None):
            raise ValueError("the state is that of another training")
        self.model.load_state_dict(state["model"])
        if {**self.scaler.state_dict(), **state["scaler"]}.keys() != state["scaler"].keys():
            raise ValueError("the state is that of another scaler")
        self.scaler.load_state_dict(state["scaler"])
        steps = self.epoch * self.steps_per_epoch
        if self.trial.method.trains:
            self.schedule.restore(state["optimizer"], steps)
        if self.online is not None:
            self.online.load_state_dict(state["online"], steps)


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
        backbones.initialise(self.linear, streams.generator(streams.stream(trial), "online"))
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
        return {"linear": self.linear.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any], steps: int) -> None:
        """Go on where `state_dict` left off, after `steps` updates."""
        self.linear.load_state_dict(state["linear"])
        self.schedule.restore(state["optimizer"], steps)


def on_device(model: Model, device: torch.device) -> Model:
    """The model on its device, in the memory format and with the settings that PyTorch's tuning guide recommends there;
    convolutions of CPUs and tensor cores read channels_last without copies. Not measured on a GPU yet."""
    if device.type == "cuda":
        # Every step has the same shapes: the quickest convolutions are chosen once; two runs may choose differently.
        torch.backends.cudnn.benchmark = True
        # As convolutions have it by default: float32's range with ten bits of precision.
        torch.backends.cuda.matmul.allow_tf32 = True
    return model.to(device).to(memory_format=torch.channels_last)


def _on_cpu(value: Any) -> Any:
    """A copy of nested dicts and lists with copies of their tensors on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().clone().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return [_on_cpu(item) for item in value] if isinstance(value, list) else value


def describe(dataset: Dataset, normalisation: str) -> dict[str, Any]:
    """What a model keeps of the data that it was made for; see `Model`."""
    facts = {key: getattr(dataset, key) for key in ("channels", "image_size", "mean", "std")}
    if normalisation == "channels":
        images = dataset.train.images
        assert isinstance(images, Tensor), "a trial whose images are decoded on demand is refused"
        each = [moments(images[:, k].numpy(), dataset.source) for k in range(dataset.channels)]
        facts["mean"], facts["std"] = map(list, zip(*each, strict=True))
    return facts | {"classes": list(dataset.classes)}


def check(trial: TrialSettings, dataset: Dataset, ranks: int = 1) -> None:
    """Raise InputError where a trial cannot be trained on this data set, or not in so many processes."""
    if not dataset.classes:
        lacking = f"needs labels, and {dataset.name} has none"
        refuse_if(trial.method.supervised, "method.name", f"{trial.method.name!r} {lacking}; choose another method")
        refuse_if(trial.evaluation.online_probe, "evaluation.online_probe", f"{lacking}; set it to false")
    images = len(training_split(trial, dataset).images)
    if trial.method.trains:
        reason = f"{trial.batch_size} is larger than the {images} training images of {dataset.name}"
        refuse_if(trial.batch_size > images, "batch_size", reason)
        Ranks(0, ranks).part(trial.batch_size)
    crops = [local_size(trial, dataset.image_size)] if trial.augment.local_views else []
    backbones.check(trial.backbone, dataset.channels, dataset.image_size, crops, shared=ranks > 1)
    check_evaluation(trial, dataset)


def check_evaluation(trial: TrialSettings, dataset: Dataset) -> None:
    """Raise InputError where a trial's evaluation asks for more than the data set has."""
    most, images = max(trial.evaluation.gmm_components, default=0), len(dataset.test.images)
    reason = f"{most} are more than the {images} test images of {dataset.name}"
    refuse_if(most > images, "evaluation.gmm_components", reason)


def training_split(trial: TrialSettings, dataset: Dataset) -> Split:
    """The images that a trial is trained on: unlabelled ones too, unless its method needs labels."""
    return dataset.train if trial.method.supervised else dataset.pretrain


def operations(trial: TrialSettings, dataset: Dataset) -> int:
    """Floating-point operations of the products and convolutions of one step, forward and backward, which is made.

    A method that does not train has none.
    """
    from torch.utils.flop_counter import FlopCounterMode  # it imports a compiler

    if not trial.method.trains:
        return 0
    # Data sets of the evaluation have no part in it, and may lie elsewhere; and a training of no epochs has no step.
    changes = {
        "evaluation": trial.evaluation.model_copy(update={"transfer": []}),
        "optimizer": trial.optimizer.model_copy(update={"warmup_epochs": 0.0}),
        "epochs": 1,
    }
    training = TrialTraining(trial.model_copy(update=changes), dataset)
    views, labels = next(training.views.epoch(0))
    with FlopCounterMode(display=False, custom_mapping=counts()) as counter:
        training.training_step(views, labels, 0)
    return int(counter.get_total_flops())
