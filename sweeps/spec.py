"""Sweep files: reading, checking and expanding them into one dict of settings a trial.

This package knows no trainer: what a trial's settings may be is said by a `Schema` that the caller brings.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sweeps.errors import UserError
from sweeps.file import (
    MOST_TRIALS,
    Arm,
    Axes,
    Range,
    ResourceRequest,
    Scalar,
    Scheduler,
    Search,
    SweepFile,
    explain,
    is_known,
    nearest,
    read_axis,
)
from sweeps.loading import load
from sweeps.settings import assign, flat, nested, overlay


@dataclass(frozen=True)
class Schema:
    """What the settings of a trial may be.

    `read` returns the settings written out in full, or raises ValueError with one sentence that names the key.
    `known_keys` are the dotted names of all settings, `list_keys` of those whose values are lists.
    """

    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    known_keys: Sequence[str]
    list_keys: Collection[str] = ()


ARM = "arm"
"""Under this name the arm of a trial stands among its axes."""


DATA_KEYS = ("image_size", "decode", "train_images", "test_images")
"""Settings that change the data, on which numbers cannot be compared with those on other data."""


@dataclass(frozen=True)
class SweepTrial:
    """One trial of a sweep: its settings in full, and where it stands in the sweep."""

    settings: dict[str, Any]
    role: Literal["trial", "baseline"]
    label: str
    point: dict[str, Scalar]
    seed: int


@dataclass(frozen=True)
class Space:
    """What a search chooses from: the axes of a sweep, on each of its data sets; `read` checks a trial's settings.

    A data set is None where the settings name it.
    """

    axes: dict[str, list[Scalar] | Range]
    datasets: list[str | None]
    settings: dict[str, Any] = field(repr=False)
    read: Callable[[dict[str, Any], str], dict[str, Any]] = field(repr=False)

    def trial(self, point: Mapping[str, Scalar], dataset: str | None, seed: int) -> SweepTrial:
        """The trial at a point; raises UserError where the point has settings that do not go together."""
        placed = {} if dataset is None else {"dataset": dataset}
        return _trial("", self.settings, point, placed, seed, self.read)

    def points(self) -> int | None:
        """How many points there are; None where they are not countable."""
        sizes = [axis.size() if isinstance(axis, Range) else len(axis) for axis in self.axes.values()]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def draw(self, generator: random.Random) -> dict[str, Scalar]:
        """A random point; `generator` is the only source of randomness."""
        return {
            key: axis.draw(generator) if isinstance(axis, Range) else generator.choice(axis)
            for key, axis in self.axes.items()
        }

    def probes(self, dataset: str | None, seed: int) -> Iterator[SweepTrial]:
        """Trials that show mistakes: every listed value and every bound once. Raises UserError for a value that goes
        neither with the first nor with the last values of the other axes."""
        ends = {key: axis.ends() if isinstance(axis, Range) else axis for key, axis in self.axes.items()}
        first, last = ({key: values[place] for key, values in ends.items()} for place in (0, -1))
        for key, values in ends.items():
            for value in values:
                try:
                    yield self.trial({**first, key: value}, dataset, seed)
                except UserError:
                    yield self.trial({**last, key: value}, dataset, seed)


@dataclass(frozen=True)
class Sweep:
    """A sweep read from a file, overrides applied, checked.

    `axes` holds each axis' distinct values in order (data set and seed apart); trials are ordered seed by seed, so that
    a sweep cut short has one seed everywhere before it has two anywhere. Where a search chooses them from the `space`,
    only baselines are among the trials, and `axes` has no values.
    """

    name: str
    description: str
    source: str
    axes: dict[str, list[Scalar]]
    seeds: list[int]
    shared: dict[str, Any]
    packing: str | int
    resources: ResourceRequest
    trials: list[SweepTrial] = field(repr=False)
    search: Search | None = None
    scheduler: Scheduler | None = None
    space: Space | None = None


def read_sweep(
    path: Path,
    schema: Schema,
    overrides: Mapping[str, Any] | None = None,
    seeds: int | None = None,
    scale: str = "full",
) -> Sweep:
    """The sweep of a YAML file.

    `overrides` maps dotted settings to values; a value replaces the axis of that name, a list of values becomes the
    axis, but for settings that are lists themselves. In a sweep of several arms they go to the arms that have the
    setting or axis, or if none has it, to all. `seeds` counts seeds from 0. `scale` is full, or one of the
    file's scales; the sweep's name then ends with it.

    Raises UserError, before anything is started, if the file cannot be read, has an unknown key (with the nearest
    known one), a wrong type, or leads to a trial that the schema refuses.
    """
    overrides = overrides or {}
    document = load(path)
    if seeds is not None:
        document = {**document, "seeds": seeds}
    try:
        file = SweepFile.model_validate(document)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error)}") from None
    if scale != "full":
        file = _scaled(path, file, scale, keep_seeds=seeds is not None)
    settings, arms = _merge(path, file, overrides, schema.list_keys)
    for arm in arms:
        unknown = [key for key in flat(arm.settings) | arm.axes.keys() if not is_known(key, schema.known_keys)]
        if unknown:
            where = _origin(path, unknown[0], overrides)
            raise UserError(f"{where}: unknown key {unknown[0]!r}; {nearest(unknown[0], schema.known_keys)}")

    def read(own: dict[str, Any], label: str) -> dict[str, Any]:
        try:
            return schema.read(own)
        except ValueError as error:
            where = _origin(path, getattr(error, "key", None), overrides)
            raise UserError(f"{where}: {error}" + (f" (at {label})" if label else "")) from None

    space = _space(path, file, arms, read) if file.search else None
    trials = list(_expand(path, file, settings, [] if space else arms, read, _datasets(arms)))
    values: dict[str, list[Scalar]] = {ARM: [*file.arms]} if file.arms else {}
    for key in dict.fromkeys(key for arm in arms for key in arm.axes):
        drawn = list(dict.fromkeys(trial.point[key] for trial in trials if key in trial.point))
        # Grid values keep the order of the file; drawn ones are sorted, since their order means nothing.
        is_range = any(isinstance(arm.axes.get(key), Range) for arm in arms)
        values[key] = sorted(drawn) if is_range and None not in drawn else drawn  # type: ignore[type-var]
    values.pop("dataset", None)
    return Sweep(
        name=file.sweep,
        description=file.description,
        source=str(path),
        axes=values,
        seeds=list(dict.fromkeys(file.seeds)),
        shared=settings,
        packing=file.packing,
        resources=file.resources,
        trials=trials,
        search=file.search,
        scheduler=file.scheduler,
        space=space,
    )


def _scaled(path: Path, file: SweepFile, name: str, keep_seeds: bool) -> SweepFile:
    """The file at one of its scales: other values, the same structure."""
    if name not in file.scales:
        known = ", ".join(["full", *file.scales])
        raise UserError(f"{path}: the sweep has no scale {name!r}, only: {known}")
    scale = file.scales[name]
    if foreign := [arm for arm in scale.arms if arm not in file.arms]:
        raise UserError(f"{path}: scales.{name}.arms: there is no arm {foreign[0]!r}")

    def shrink(where: str, arm: Arm, smaller: Arm) -> dict[str, Any]:
        for key, values in smaller.axes.items():
            size = len(arm.axes[key]) if isinstance(arm.axes.get(key), list) else None
            if key != "dataset" and (not isinstance(values, list) or len(values) != size):
                raise UserError(
                    f"{path}: {where}.axes: a scale must keep the number of values of {key!r}, which is {size or 0}"
                )
        settings = overlay(nested(arm.settings), smaller.settings)
        return {"settings": settings, "axes": {**arm.axes, **smaller.axes}}

    changed: dict[str, Any] = shrink(f"scales.{name}", file, scale)
    if "dataset" in scale.settings:
        changed["axes"].pop("dataset", None)
    changed["arms"] = {
        key: arm.model_copy(update=shrink(f"scales.{name}.arms.{key}", arm, scale.arms.get(key, Arm())))
        for key, arm in file.arms.items()
    }
    if scale.seeds and not keep_seeds:
        changed["seeds"] = scale.seeds
    return file.model_copy(update={**changed, "sweep": f"{file.sweep}-{name}", "resources": scale.resources})


@dataclass(frozen=True)
class _Merged:
    """An arm with everything in it: shared settings and axes, its own, and the overrides. `name` is empty if alone."""

    name: str
    settings: dict[str, Any]
    axes: Axes


def _merge(
    path: Path, file: SweepFile, overrides: Mapping[str, Any], lists: Collection[str]
) -> tuple[dict[str, Any], list[_Merged]]:
    """The shared settings, and each arm; overrides applied."""
    shared = nested(file.settings)
    arms = []
    for name, arm in (file.arms or {"": Arm()}).items():
        settings = overlay(nested(file.settings), arm.settings)
        arms.append(_Merged(name, settings, {**file.axes, **arm.axes}))
    for key, value in overrides.items():
        having = [one for one in arms if key in one.axes or key in flat(one.settings)] or arms
        if len(having) == len(arms):
            _override(shared, {}, key, value, lists)
        for one in having:
            _override(one.settings, one.axes, key, value, lists)
    if whole := next((key for arm in arms for key in arm.axes if key in lists), None):
        raise UserError(f"{path}: {whole!r} is a list itself, so it cannot be an axis; write it under settings")
    if any(isinstance(arm.axes.get("dataset"), Range) for arm in arms):
        raise UserError(f"{path}: axis 'dataset' must be a list of names")
    if any("dataset" in arm.axes for arm in file.arms.values()):
        raise UserError(f"{path}: 'dataset' must be an axis of all arms or of none")
    return shared, arms


def _override(settings: dict[str, Any], axes: Axes, key: str, value: Any, lists: Collection[str]) -> None:
    if isinstance(value, list) and key not in lists:
        try:
            axes[key] = read_axis(key, value)
        except ValueError as error:
            raise UserError(f"command line: {error}") from None
    else:
        axes.pop(key, None)
        assign(settings, key, value)


def _expand(
    path: Path,
    file: SweepFile,
    settings: dict[str, Any],
    arms: Sequence[_Merged],
    read: Callable[[dict[str, Any], str], dict[str, Any]],
    datasets: Sequence[str | None],
) -> Iterator[SweepTrial]:
    generator = random.Random(file.sample_seed)
    grids = [_points(arm, file.samples, generator) for arm in arms]
    size = sum(math.prod(map(len, grid)) for grid in grids) * len(datasets) * len(file.seeds)
    if size > MOST_TRIALS:
        raise UserError(f"{path}: the sweep has {size:,} trials; at most {MOST_TRIALS:,} are planned at once")
    for seed, dataset in itertools.product(dict.fromkeys(file.seeds), datasets):
        placed = {} if dataset is None else {"dataset": dataset}
        for name, replaced in file.baselines.items():
            own = {**settings, **nested(replaced), **placed, "seed": seed}
            yield SweepTrial(read(own, f"baseline {name!r}"), "baseline", name, {}, seed)
        for arm, grid in zip(arms, grids, strict=True):
            once: set[str] = set()
            order = [key for key in arm.axes if key != "dataset"]
            for parts in itertools.product(*grid):
                drawn = {key: value for part in parts for key, value in part.items()}
                trial = _trial(arm.name, arm.settings, {key: drawn[key] for key in order}, placed, seed, read)
                # 1 and 1.0, or two draws of one choice, are the same trial.
                identity = json.dumps(trial.settings, sort_keys=True)
                if identity not in once:
                    once.add(identity)
                    yield trial


def _trial(
    arm: str,
    settings: Mapping[str, Any],
    point: Mapping[str, Scalar],
    placed: Mapping[str, Scalar],
    seed: int,
    read: Callable[[dict[str, Any], str], dict[str, Any]],
) -> SweepTrial:
    """The trial at a point of the axes, on the data set in `placed`."""
    own = nested(settings)
    for key, value in {**placed, **point, "seed": seed}.items():
        assign(own, key, value)
    full = read(own, _label(arm, point))
    spelled = flat(full)
    values = {key: spelled.get(key, value) for key, value in point.items()}
    return SweepTrial(full, "trial", _label(arm, values), ({ARM: arm} if arm else {}) | values, seed)


def _datasets(arms: Sequence[_Merged]) -> list[str | None]:
    """The data sets of a sweep, which are those of each of its arms; None where its settings name the only one."""
    found: list[str | None] = arms[0].axes.get("dataset", [None])
    return found


def _space(
    path: Path, file: SweepFile, arms: Sequence[_Merged], read: Callable[[dict[str, Any], str], dict[str, Any]]
) -> Space:
    """The space of a sweep with a search; raises UserError where there is nothing to search."""
    assert file.search is not None
    if file.arms:
        raise UserError(f"{path}: a search has one space, so it cannot have arms; write a sweep for each arm")
    if "samples" in file.model_fields_set:
        raise UserError(f"{path}: samples counts random draws of a sweep without search; write search.trials")
    axes = {key: axis for key, axis in arms[0].axes.items() if key != "dataset"}
    if not axes:
        raise UserError(f"{path}: a search needs axes, for instance method.beta: {{log_uniform: [0.01, 10]}}")
    if data := next((key for key in axes if key in DATA_KEYS), None):
        raise UserError(f"{path}: {data!r} changes the data, so its values cannot be compared; it cannot be searched")
    space = Space(axes, _datasets(arms), arms[0].settings, read)
    count, trials = space.points(), file.search.trials
    if count is not None and count <= trials:
        raise UserError(
            f"{path}: search.trials {trials} is as many as the {count} points of its axes; leave search out, and the "
            "grid runs each of them once"
        )
    for dataset in space.datasets:
        list(space.probes(dataset, file.seeds[0]))
    return space


def _points(arm: _Merged, samples: int, generator: random.Random) -> list[list[dict[str, Scalar]]]:
    """What crosses with what in an arm: one entry for each grid axis, and one for all draws together."""
    ranges = {key: axis for key, axis in arm.axes.items() if isinstance(axis, Range)}
    grid = [[{key: value} for value in axis] for key, axis in arm.axes.items() if key not in {*ranges, "dataset"}]
    draws = [{key: axis.draw(generator) for key, axis in ranges.items()} for _ in range(samples)]
    return [*grid, draws] if ranges else grid


def _origin(path: Path, key: str | None, overrides: Mapping[str, Any]) -> str:
    """Where the user wrote a key: on the command line or in the file."""
    given = key is not None and any(key == name or key.startswith(name + ".") for name in overrides)
    return "command line" if given else str(path)


def _label(arm: str, point: Mapping[str, Scalar]) -> str:
    parts = ((key.rsplit(".", 1)[-1], value) for key, value in point.items())
    spelled = (f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in parts)
    return " ".join(filter(None, [arm, *spelled]))
