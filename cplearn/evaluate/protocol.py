"""What is measured on a trained model, and in which order: the evaluators of `cplearn.evaluate` put together.

The test split serves the final numbers alone. What settings may be chosen by (`select/`, `validation/`) looks at
training images only.
"""

import functools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import threadpoolctl
import torch
from torch import Tensor

from cplearn import data, streams
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset, Split, catalogue
from cplearn.data.dataset import evenly_spaced
from cplearn.errors import refuse_if
from cplearn.evaluate.clustering import clustering, kmeans
from cplearn.evaluate.collapse import (
    alpha_req,
    code_counts,
    collapse,
    effective_rank,
    lidar,
    mixture_entropy,
    singular_values,
    view_agreement,
)
from cplearn.evaluate.features import augmented_features, features, view_embeddings
from cplearn.evaluate.figure_arrays import figure_arrays
from cplearn.evaluate.inputs import NonFiniteFeatures, to_float64
from cplearn.evaluate.probe import PROTOCOLS, gradient_probe, knn, linear_probe
from cplearn.model import Model

SPECTRUM_IMAGES = 10_000  # Most training images whose spectrum is measured.
LIDAR_IMAGES, LIDAR_VIEWS = 1000, 10

WATCHED = ("codes_used", "code_perplexity", "effective_rank", "embedding_std", "intra_cluster_variance")
"""What is measured while a trial trains, as in `collapse`; `knn_accuracy` and `view_information` come to it."""

Metrics = Iterator[tuple[str, float]]


@dataclass
class Outcome:
    """What became of a trial.

    `metrics` are the final numbers, `diagnostics` the lists behind figures (singular values, code counts), `arrays`
    what figures show of single test images (see `figure_arrays`); `failure` is one sentence if the training diverged,
    and then the others are empty.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    diagnostics: dict[str, list[float]] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    failure: str | None = None


def load_transfer(trial: TrialSettings, image_size: int, root: Path | None = None) -> list[Dataset]:
    """The data sets of `evaluation.transfer`; images of a folder are read at `image_size`, that of the trial's own.

    Raises InputError if one is not to be had, has no labels, or has the same images as another.
    """
    key, loaded = "evaluation.transfer", dict[str, Dataset]()
    for name in trial.evaluation.transfer:
        other = data.load(name, root, image_size if catalogue.entry(name).takes else None)
        refuse_if(not other.classes, key, f"has {other.name}, which has no labels to be probed on; leave it out")
        same = loaded.setdefault(other.fingerprint, other)
        twice = f"has {same.name} and {other.name}, which have the same images; leave one out"
        refuse_if(same is not other, key, twice)
    return list(loaded.values())


def run(model: Model, dataset: Dataset, transfer: Sequence[Dataset] = ()) -> Outcome:
    """Evaluate a model by the settings of its trial, on `dataset` and on the data sets of `transfer`.

    `dataset` need not be the one of the training: its images are brought to the model's channels and size. What needs
    labels is left out where they are lacking. A model whose features are not finite has failed. scikit-learn is held to
    torch's number of threads, so that trials side by side do not fight for the cores.
    """
    start = time.perf_counter()
    try:
        with threadpoolctl.threadpool_limits(torch.get_num_threads()):
            evaluation = _Evaluation(model, dataset)
            outcome = Outcome(dict(evaluation.metrics()), evaluation.diagnostics())
            kept, seed = evaluation.settings.kept_images, model.trial.seed
            outcome.arrays = figure_arrays(dataset.test, evaluation.test, evaluation.embedded, kept, seed)
            for other in transfer:
                outcome.metrics.update(_transfer(model, other))
    except NonFiniteFeatures as error:
        # The very last update can still have thrown the model off.
        return Outcome(failure=str(error))
    outcome.metrics["time/evaluation_s"] = time.perf_counter() - start
    return outcome


def watch(model: Model, split: Split, count: int) -> Metrics:
    """Diagnostics of at most `count` images, evenly spaced over a split and the same ones at every call.

    Yields WATCHED of their embeddings; where the images have labels `knn_accuracy` of their features, each half of them
    judged by the other; and `view_information` of two augmented views of each, as in `view_agreement`, from the trial's
    stream "watch", the same views at every call. Nothing where the method has no embedding, or where embeddings are not
    finite. The model, measured in evaluation mode, is left as it was.
    """
    rows = evenly_spaced(len(split.images), count)
    seen, labels = features(model, split.images[rows]), split.labels[rows]
    embeddings = model.embeddings(seen)
    if embeddings is None:
        return
    try:
        measured = dict(collapse(embeddings, model.codes(embeddings), model.method.n_codes))
    except NonFiniteFeatures:
        # The update before was one too many, and the loss of the next epoch will say so.
        return
    yield from ((name, measured[f"collapse/{name}"]) for name in WATCHED if f"collapse/{name}" in measured)
    if len(rows) > 1 and labels.min() >= 0:
        even, odd = ((seen[half::2], labels[half::2]) for half in (0, 1))
        halves = ((*even, *odd), (*odd, *even))
        yield "knn_accuracy", sum(dict(_knn(model.trial, *splits))["knn/accuracy"] for splits in halves) / 2
    views = view_embeddings(model, split, count, 2, "watch")
    yield "view_information", dict(view_agreement(*_codes(model, views)))["select/view_information"]


def _codes(model: Model, views: Tensor) -> Iterable[Tensor]:
    """The codes (n,) of each view of embeddings (n, V, f)."""
    return model.codes(views.flatten(0, 1)).cpu().unflatten(0, views.shape[:2]).unbind(1)


class _Evaluation:
    """A model and what it makes of a data set: features, and embeddings and codes where its method has them."""

    def __init__(self, model: Model, dataset: Dataset) -> None:
        self.model, self.dataset, self.trial, self.settings = model, dataset, model.trial, model.trial.evaluation
        # Probes that learn by gradient steps do so on the device; all else is measured on the CPU.
        self.train_on_device, self.test_on_device = (features(model, s.images) for s in (dataset.train, dataset.test))
        self.train, self.test = self.train_on_device.cpu(), self.test_on_device.cpu()
        embeddings = model.embeddings(self.test_on_device)
        self.embedded = None if embeddings is None else (embeddings.cpu(), model.codes(embeddings).cpu())

    def metrics(self) -> Metrics:
        settings, seed = self.settings, self.trial.seed
        if self.dataset.classes:
            yield from self._compared_with_labels()
        if self.embedded is not None:
            embeddings, codes = self.embedded
            yield from collapse(embeddings, codes, self.model.method.n_codes)
            yield from mixture_entropy(embeddings, settings.gmm_components, seed=seed)
        yield from self._selection()

    def diagnostics(self) -> dict[str, list[float]]:
        if self.embedded is None:
            return {}
        embeddings, codes = self.embedded
        return {
            "singular_values": singular_values(embeddings).tolist(),
            "paper_singular_values": singular_values(embeddings, centred=False).tolist(),
            "code_counts": code_counts(codes, self.model.method.n_codes).tolist(),
        }

    def _compared_with_labels(self) -> Metrics:
        """What needs labels: classifiers, and the agreement of clusters and codes with classes."""
        labels, seed = self.dataset.test.labels, self.trial.seed
        chance = streams.numpy_generator(seed, "chance")
        yield from self._probes()
        yield from self._validation()
        clusters = kmeans(self.test, self.dataset.n_classes, restarts=self.settings.kmeans_restarts, seed=seed)
        yield from clustering("kmeans", labels, clusters, generator=chance)
        if self.embedded is not None:
            yield from clustering("codes", labels, self.embedded[1], generator=chance)

    def _probes(self) -> Metrics:
        settings, train, test = self.settings, self.dataset.train, self.dataset.test
        splits = self.train, train.labels, self.test, test.labels
        on_device = self.train_on_device, train.labels, self.test_on_device, test.labels
        if "lbfgs" in settings.probe:
            yield from linear_probe(*splits, c=settings.probe_c)
        augmented = functools.partial(augmented_features, self.model, train) if settings.probe_augment else None
        for name in (name for name in settings.probe if name in PROTOCOLS):
            generator, classes = streams.generator(streams.stream(self.trial), f"probe {name}"), self.dataset.n_classes
            yield from gradient_probe(name, *on_device, classes=classes, generator=generator, augmented=augmented)
        yield from _knn(self.trial, *splits)

    def _validation(self) -> Metrics:
        """The probes on a part of the training images that is held out from their fit, the same for all of a seed.

        Yields nothing where so few images leave only one class to fit.
        """
        n, labels = len(self.train), self.dataset.train.labels
        order = torch.from_numpy(streams.numpy_generator(self.trial.seed, "validation").permutation(n))
        held_out = max(1, round(self.settings.validation * n))
        test, fit = order[:held_out], order[held_out:]
        if self.settings.validation and len(labels[fit].unique()) > 1:
            results = dict(_classifiers(self.trial, self.train[fit], labels[fit], self.train[test], labels[test]))
            yield from ((f"validation/{name}", results[name]) for name in ("accuracy", "knn_accuracy"))

    def _selection(self) -> Metrics:
        model, split, view_images = self.model, self.dataset.train, self.settings.view_images
        rows = evenly_spaced(len(self.train), SPECTRUM_IMAGES)
        slope = alpha_req(to_float64(self.train[rows], "training features"))
        if slope is not None:
            yield "select/alpha_req", slope
        embeddings = model.embeddings(self.train_on_device[rows.to(model.device)])
        if embeddings is None:
            return
        yield "select/rankme", effective_rank(to_float64(embeddings, "training embeddings"))
        if view_images:
            views = view_embeddings(model, split, view_images, 2, "agreement")
            yield from view_agreement(*_codes(model, views))
        if self.settings.lidar:
            views = view_embeddings(model, split, LIDAR_IMAGES, LIDAR_VIEWS, "lidar")
            yield "select/lidar", lidar(views.cpu().numpy())


def _knn(trial: TrialSettings, *splits: Tensor) -> Metrics:
    settings = trial.evaluation
    return knn(*splits, neighbours=settings.knn_neighbours, temperature=settings.knn_temperature)


def _classifiers(trial: TrialSettings, *splits: Tensor) -> Metrics:
    """The linear probe's metrics, without their prefix, and `knn_accuracy`."""
    for name, value in linear_probe(*splits, c=trial.evaluation.probe_c):
        yield name.removeprefix("probe/"), value
    yield "knn_accuracy", dict(_knn(trial, *splits))["knn/accuracy"]


def _transfer(model: Model, other: Dataset) -> Metrics:
    train, test = (features(model, split.images).cpu() for split in (other.train, other.test))
    for name, value in _classifiers(model.trial, train, other.train.labels, test, other.test.labels):
        yield f"transfer/{other.slug}/{name}", value
