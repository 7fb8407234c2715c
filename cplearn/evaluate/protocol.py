"""What is measured on trained models: the evaluators of `cplearn.evaluate`, put together for K members.

The test split serves the final numbers alone. What settings may be chosen by (`select/`, `validation/`) looks at
training images only.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import threadpoolctl
import torch
import torch.nn.functional as F
from torch import Tensor

from cplearn import augment, data, evaluate, streams
from cplearn.config.groups import KEPT_COMPONENTS
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset, Split, catalogue
from cplearn.data.image_files import ImageFiles
from cplearn.model import Model
from cplearn.views import batches

SPECTRUM_IMAGES = 10_000
"""Most training images whose spectrum is measured."""
LIDAR_IMAGES, LIDAR_VIEWS = 1000, 10
BLOCK = 512
"""Images that are augmented, resized or shown to the backbone at once."""
KEPT_BYTES = 2**24
"""Most bytes of kept embeddings, whatever their width."""
SHOWN = 8
"""Codes of which images are named, and images of each."""
QUERIES = 10
"""Classes of which an image is shown with its nearest neighbours."""
THUMBNAIL = 32
"""Longest side of a kept image in pixels."""


@dataclass
class Outcome:
    """What became of one member.

    `metrics` are the final numbers, `diagnostics` the lists behind figures (singular values, code counts), `arrays`
    what figures show of single test images (see `figure_arrays`); `failure` is one sentence if the member diverged,
    and then the others are empty.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    diagnostics: dict[str, list[float]] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    failure: str | None = None


@dataclass
class _Member:
    """What one member made of the images, on the CPU: features, and embeddings and codes where its method has them."""

    train: Tensor
    test: Tensor
    embeddings: Tensor | None
    codes: Tensor | None
    probes: dict[str, float]
    train_embeddings: Tensor | None
    view_codes: Tensor | None
    views: Tensor | None


def load_transfer(trial: TrialSettings, image_size: int, root: Path | None = None) -> list[Dataset]:
    """The data sets of `evaluation.transfer`; images of a folder are read at `image_size`, that of the trial's own.

    Raises InputError if one is not to be had.
    """
    names = trial.evaluation.transfer
    return [data.load(name, root, image_size if name.startswith("folder:") else None) for name in names]


def run(
    model: Model, dataset: Dataset, transfer: Sequence[Dataset] = (), failures: Mapping[int, str] | None = None
) -> list[Outcome]:
    """Evaluate every member of `model` by the settings of its trial; members in `failures` are passed over.

    `dataset` need not be the one of the training: its images are brought to the model's channels and size, see
    `features`. A member whose features are not finite fails alone. scikit-learn is held to torch's number of threads,
    so that trials side by side do not fight for the cores.
    """
    start, known = time.perf_counter(), failures or {}
    with threadpoolctl.threadpool_limits(torch.get_num_threads()):
        outcomes = [Outcome(failure=known.get(k)) for k in range(model.members)]
        for k, member in enumerate(_members(model, dataset)):
            trial = model.trials[k]
            outcomes[k] = _collect(outcomes[k], _metrics(trial, dataset, member, model.method.n_codes))
            if outcomes[k].failure is None:
                _describe(outcomes[k], trial, dataset, member, model.method.n_codes)
        for other in transfer:
            train, test = (features(model, split.images).cpu() for split in (other.train, other.test))
            for k, trial in enumerate(model.trials):
                outcomes[k] = _collect(outcomes[k], _transfer(trial, other, train[k], test[k]))
    seconds = time.perf_counter() - start
    for outcome in outcomes:
        if outcome.failure is None:
            outcome.metrics["time/evaluation_s"] = seconds
    return outcomes


def features(model: Model, images: Tensor | ImageFiles) -> Tensor:
    """Backbone features (K, N, F) of uint8 images (N, C, H, W) of any size, of one or three channels.

    Images of another size than the model was trained on are resized to it (bilinear, antialiased); greyscale is
    repeated for a model of colour images, and colour becomes luma (ITU-R 601) for a model of greyscale ones. The
    normalisation is that of the training data.
    """
    blocks = [model.features(_fitted(block, model), BLOCK) for block in images.split(BLOCK)]
    return torch.cat(blocks, dim=1)


def _fitted(images: Tensor, model: Model) -> Tensor:
    channels, size = model.images["channels"], model.images["image_size"]
    if images.shape[1] != channels:
        images = images.expand(-1, 3, -1, -1) if channels == 3 else _luma(images)
    return _resized(images, size)


def _luma(images: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as transforms  # takes a second, and is seldom needed

    return transforms.rgb_to_grayscale(images)


def _resized(images: Tensor, size: int) -> Tensor:
    """Images (..., H, H) with sides of `size` pixels."""
    if images.shape[-1] == size:
        return images
    from torchvision.transforms.v2 import functional as transforms

    return transforms.resize(images, [size, size], antialias=True)


def _members(model: Model, dataset: Dataset) -> Iterator[_Member]:
    """Run the backbones, and all that is computed for K members at once."""
    trials, settings = model.trials, model.trials[0].evaluation
    train, test = (features(model, split.images) for split in (dataset.train, dataset.test))
    embeddings = model.embeddings(test)
    stacked: dict[str, Tensor | None] = dict.fromkeys(("codes", "train_embeddings", "view_codes", "views"))
    if embeddings is not None:
        stacked["codes"] = model.codes(embeddings)
        spread = _spread(train.shape[1], SPECTRUM_IMAGES).to(train.device)
        stacked["train_embeddings"] = model.embeddings(train[:, spread])
        if settings.view_images and stacked["codes"] is not None:
            seen = _view_embeddings(model, dataset.train, settings.view_images, 2, "agreement")
            codes = model.codes(seen.flatten(1, 2))
            assert codes is not None
            stacked["view_codes"] = codes.unflatten(1, (-1, 2))
        if settings.lidar:
            stacked["views"] = _view_embeddings(model, dataset.train, LIDAR_IMAGES, LIDAR_VIEWS, "lidar")
    probes: list[dict[str, float]] = [{} for _ in trials]
    for name in settings.probe:
        if name in evaluate.PROTOCOLS:
            results = evaluate.gradient_probe(
                name,
                train,
                dataset.train.labels,
                test,
                dataset.test.labels,
                classes=dataset.n_classes,
                generators=[streams.generator(streams.stream(trial), f"probe {name}") for trial in trials],
                augmented=functools.partial(_augmented, model, dataset.train) if settings.probe_augment else None,
            )
            for own, result in zip(probes, results, strict=True):
                own.update(result)
    for k in range(len(trials)):
        test_embeddings = None if embeddings is None else embeddings[k].cpu()
        parts = {name: None if x is None else x[k].cpu() for name, x in stacked.items()}
        yield _Member(train[k].cpu(), test[k].cpu(), test_embeddings, probes=probes[k], **parts)


def _augmented(model: Model, split: Split, epoch: int) -> Tensor:
    """Features (K, n, F) of the training images, each cropped and flipped as it is in an epoch of a linear probe.

    In evaluation mode an image's features depend on it alone, so they are those of any order and batches.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    draws = [(streams.stream(trial), 1.0) for trial in model.trials]
    distinct = list(dict.fromkeys(draws))
    source = batches.source(split.images, {"probe": augment.LINEAR}, device, distinct)
    generators = [streams.generator(stream, "probe views", epoch, device) for stream, _ in distinct]
    recipe, rows = source.recipes["probe"], torch.arange(len(split.images), device=source.rows_on).split(BLOCK)
    blocks = []
    for own, found in zip(rows, source.batches([[own] * len(distinct) for own in rows], epoch), strict=True):
        # Crops that were cut from files stand in a dimension of views.
        images = found["probe"][0] if found["probe"].ndim == 5 else found["probe"]
        images = _fitted(images, model)
        size = images.shape[-1]
        params = augment.stack_params([recipe.sample(len(own), size, generator) for generator in generators])
        (views,) = recipe.apply(images, params, model.dtype)
        parts = dict(zip(distinct, views.chunk(len(distinct)), strict=True))
        joined = views if len(distinct) == 1 else torch.cat([parts[draw] for draw in draws], dim=1)
        blocks.append(model.features(joined, BLOCK))
    return torch.cat(blocks, dim=1)


def _view_embeddings(model: Model, split: Split, count: int, copies: int, purpose: str) -> Tensor:
    """Embeddings (K, n, copies, f) of augmented copies of at most `count` images, evenly spaced over the split.

    Each member's views come from its own stream `purpose`; the copies run through the views of its recipe.
    """
    device = next(model.parameters()).device
    recipe = augment.recipe(model.trials[0].augment.recipe)
    draws = [(streams.stream(trial), trial.augment.strength) for trial in model.trials]
    distinct = list(dict.fromkeys(draws))
    generators = [streams.generator(stream, purpose, device=device) for stream, _ in distinct]
    images = split.images[_spread(len(split.images), count)]
    blocks = []
    for block in images.split(BLOCK):
        fitted, parts = _fitted(block, model).to(device), []
        for _ in range(copies // len(recipe.views)):
            seen = [
                recipe(fitted, generator, strength, model.dtype)
                for generator, (_, strength) in zip(generators, distinct, strict=True)
            ]
            views = seen[0] if len(seen) == 1 else torch.cat([seen[distinct.index(draw)] for draw in draws], dim=2)
            parts += [model.features(view, BLOCK) for view in views]
        blocks.append(torch.stack(parts, dim=2))
    # In one call: the scale of CPLearn's embedding depends on the number of rows.
    stacked = torch.cat(blocks, dim=1)
    embedded = model.embeddings(stacked.flatten(1, 2))
    assert embedded is not None
    return embedded.unflatten(1, stacked.shape[1:3])


def _collect(outcome: Outcome, results: Iterator[tuple[str, float]]) -> Outcome:
    """The outcome with the results added; a failed one stays as it is, and one with features not finite fails."""
    if outcome.failure is None:
        try:
            outcome.metrics.update(results)
        except evaluate.NonFiniteFeatures as error:
            # The very last update can still have thrown a member off.
            return Outcome(failure=str(error))
    return outcome


def _describe(outcome: Outcome, trial: TrialSettings, dataset: Dataset, member: _Member, n_codes: int) -> None:
    """Add what figures need."""
    if member.embeddings is not None:
        outcome.diagnostics["singular_values"] = evaluate.singular_values(member.embeddings).tolist()
    if member.codes is not None:
        outcome.diagnostics["code_counts"] = evaluate.code_counts(member.codes, n_codes).tolist()
    kept, seed = trial.evaluation.kept_images, trial.seed
    outcome.arrays = figure_arrays(dataset.test, member.test, member.embeddings, member.codes, kept, seed)


def _metrics(trial: TrialSettings, dataset: Dataset, member: _Member, n_codes: int) -> Iterator[tuple[str, float]]:
    settings, train, test = trial.evaluation, member.train, member.test
    y_train, y_test = dataset.train.labels, dataset.test.labels
    chance = streams.numpy_generator(trial.seed, "chance")
    if "lbfgs" in settings.probe:
        yield from evaluate.linear_probe(train, y_train, test, y_test, c=settings.probe_c)
    yield from member.probes.items()
    yield from _knn(trial, train, y_train, test, y_test)
    yield from _validation(trial, train, y_train)
    clusters = evaluate.kmeans(test, dataset.n_classes, restarts=settings.kmeans_restarts, seed=trial.seed)
    yield from evaluate.clustering("kmeans", y_test, clusters, generator=chance)
    if member.codes is not None:
        yield from evaluate.clustering("codes", y_test, member.codes, generator=chance)
    if member.embeddings is not None:
        yield from evaluate.collapse(member.embeddings, member.codes, n_codes)
        yield from evaluate.mixture_entropy(member.embeddings, settings.gmm_components, seed=trial.seed)
    yield from _selection(member)


def _knn(trial: TrialSettings, *splits: Tensor) -> Iterator[tuple[str, float]]:
    settings = trial.evaluation
    return evaluate.knn(*splits, neighbours=settings.knn_neighbours, temperature=settings.knn_temperature)


def _validation(trial: TrialSettings, train: Tensor, labels: Tensor) -> Iterator[tuple[str, float]]:
    """The probes on a part of the training images that is held out from their fit, the same part for all of a seed.

    Nothing, where so few images leave only one class to fit.
    """
    if not trial.evaluation.validation:
        return
    order = torch.from_numpy(streams.numpy_generator(trial.seed, "validation").permutation(len(train)))
    held = max(1, round(trial.evaluation.validation * len(train)))
    test, fit = order[:held], order[held:]
    splits = train[fit], labels[fit], train[test], labels[test]
    if len(labels[fit].unique()) < 2:
        return
    yield "validation/accuracy", dict(evaluate.linear_probe(*splits, c=trial.evaluation.probe_c))["probe/accuracy"]
    yield "validation/knn_accuracy", dict(_knn(trial, *splits))["knn/accuracy"]


def _selection(member: _Member) -> Iterator[tuple[str, float]]:
    """Criteria without labels, on training images."""
    spread = _spread(len(member.train), SPECTRUM_IMAGES)
    slope = evaluate.alpha_req(evaluate.to_float64(member.train[spread], "training features"))
    if slope is not None:
        yield "select/alpha_req", slope
    if member.train_embeddings is not None:
        embeddings = evaluate.to_float64(member.train_embeddings, "training embeddings")
        yield "select/rankme", evaluate.effective_rank(embeddings)
    if member.view_codes is not None:
        yield from evaluate.view_agreement(*member.view_codes.unbind(1))
    if member.views is not None:
        yield "select/lidar", evaluate.lidar(member.views.numpy())


def _transfer(trial: TrialSettings, other: Dataset, train: Tensor, test: Tensor) -> Iterator[tuple[str, float]]:
    """Linear probe and k-NN on another data set."""
    splits = train, other.train.labels, test, other.test.labels
    prefix = f"transfer/{catalogue.slug(other.name)}"
    for name, value in evaluate.linear_probe(*splits, c=trial.evaluation.probe_c):
        yield f"{prefix}/{name.removeprefix('probe/')}", value
    yield f"{prefix}/knn_accuracy", dict(_knn(trial, *splits))["knn/accuracy"]


def figure_arrays(
    split: Split, test: Tensor, embeddings: Tensor | None, codes: Tensor | None, kept: int, seed: int
) -> dict[str, np.ndarray]:
    """What figures need to know of the n images of the test split; features (n, F), embeddings (n, f), codes (n,).

    labels, codes -- of all n test images, int32.
    kept -- (m,) int32, the images whose vectors are kept: `kept` of them, evenly spaced, fewer if their embeddings
        were more than KEPT_BYTES. The next two have one row for each.
    features -- (m, at most 50) float16, the first principal components of the kept backbone features.
    embeddings -- (m, f) float16.
    features_scale, embeddings_scale -- what those numbers are to be multiplied by: they are divided by the standard
        deviation of all their entries, so that float16 can hold them.
    top_codes -- (at most 8,) int32, the most used codes, most used first.
    code_images -- (at most 8, 8) int32: of the images that have such a code, those nearest to the mean of their
        embeddings, nearest first; -1 where there are no more.

    Unless `kept` is 0, also images:

    queries -- (at most 10,) int32, the first image of each class, of ten evenly spaced classes where there are more.
    neighbours -- (at most 10, 7) int32, the other images nearest to each query by the cosine of all backbone features,
        nearest first; -1 where there are no more.
    shown -- (at most 144,) int32, all images that these arrays and `code_images` name, ascending.
    thumbnails -- (as many, C, h, w) uint8, those images, made smaller where they have more than 32 pixels a side.
    """
    arrays = {"labels": split.labels.numpy().astype(np.int32)}
    if codes is not None:
        arrays["codes"] = codes.numpy().astype(np.int32)
    if codes is not None and embeddings is not None:
        arrays |= _code_images(embeddings.double().numpy(), codes.numpy())
    width = 1 if embeddings is None else embeddings.shape[1]
    rows = _spread(len(test), min(kept, KEPT_BYTES // (2 * width)))
    if len(rows):
        arrays["kept"] = rows.numpy().astype(np.int32)
        chosen = test[rows].double().numpy()
        from sklearn.decomposition import PCA

        components = min(KEPT_COMPONENTS, *chosen.shape)
        with np.errstate(invalid="ignore"):  # its share of the variance, where there is none
            projection = PCA(components, svd_solver="randomized", random_state=seed).fit_transform(chosen)
        arrays |= _half("features", projection)
        if embeddings is not None:
            arrays |= _half("embeddings", embeddings[rows].double().numpy())
        arrays |= _neighbours(test, split.labels)
        arrays |= _thumbnails(
            split, [arrays[name] for name in ("code_images", "queries", "neighbours") if name in arrays]
        )
    return arrays


def _half(name: str, values: np.ndarray) -> dict[str, np.ndarray]:
    scale = values.std() or 1.0
    return {name: (values / scale).astype(np.float16), f"{name}_scale": np.array(scale)}


def _code_images(embeddings: np.ndarray, codes: np.ndarray) -> dict[str, np.ndarray]:
    used, counts = np.unique(codes, return_counts=True)
    top = used[np.argsort(-counts, kind="stable")[:SHOWN]]
    images = np.full((len(top), SHOWN), -1, np.int32)
    for row, code in zip(images, top, strict=True):
        own = np.flatnonzero(codes == code)
        distance = ((embeddings[own] - embeddings[own].mean(0)) ** 2).sum(1)
        # Two images are equally far from their mean; rounding must not decide which comes first.
        distance = np.round(distance / (distance.max() or 1.0), 9)
        nearest = own[np.argsort(distance, kind="stable")[:SHOWN]]
        row[: len(nearest)] = nearest
    return {"top_codes": top.astype(np.int32), "code_images": images}


def _neighbours(test: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    classes = labels.unique()
    queries = torch.stack([(labels == one).nonzero()[0, 0] for one in classes[_spread(len(classes), QUERIES)]])
    # In double precision the square of the largest float32 is finite.
    directions = F.normalize(test[queries].double())
    cosine = torch.cat([directions @ F.normalize(block.double()).T for block in test.split(BLOCK)], dim=1)
    cosine[torch.arange(len(queries)), queries] = -torch.inf
    # Equal images are equally near; rounding must not decide which comes first.
    order = torch.argsort(cosine.mul(1e9).round(), dim=1, descending=True, stable=True)
    neighbours = np.full((len(queries), SHOWN - 1), -1, np.int32)
    found = order[:, : min(SHOWN - 1, len(test) - 1)].numpy()
    neighbours[:, : found.shape[1]] = found
    return {"queries": queries.numpy().astype(np.int32), "neighbours": neighbours}


def _thumbnails(split: Split, named: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    shown = np.unique(np.concatenate([rows.ravel() for rows in named]))
    shown = shown[shown >= 0]
    images = split.images[torch.from_numpy(shown).long()]
    images = _resized(images, min(THUMBNAIL, images.shape[-1]))
    return {"shown": shown, "thumbnails": images.numpy()}


def _spread(n: int, most: int) -> Tensor:
    """Indices (min(n, most),) of evenly spaced rows of n."""
    count = min(n, most)
    return torch.arange(count) * n // max(1, count)
