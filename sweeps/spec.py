"""Sweep files: reading and checking them, and from settings and axes to trials: grids, random draws, the space of a
search."""

import functools
import itertools
import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sweeps.errors import UserError, explain
from sweeps.file import (
    FILE_KEYS,
    MOST_TRIALS,
    Arm,
    Axes,
    Range,
    ResourceRequest,
    Scalar,
    SchedulerSettings,
    SearchSettings,
    SweepFile,
    read_axis,
)
from sweeps.loading import load
from sweeps.settings import assign, flat, nested, overlay

ARM = "arm"  # Under this name the arm of a trial stands among its axes.
DATA_KEYS = ("image_size", "decode", "train_images", "test_images", "test_share")


@dataclass(frozen=True)
class Schema:
    """What the settings of a trial may be; the trainer says it.

    `read` makes an object, unknown to this package, of nested settings. It raises ValueError with one sentence, and
    with the dotted name of the setting, if there is one, as its attribute `key`. `flat` gives the settings of such an
    object by dotted name. `list_keys` are the settings that are lists.
    """

    read: Callable[[Mapping[str, Any]], Any]
    flat: Callable[[Any], Mapping[str, Any]]
    list_keys: Collection[str]


@dataclass(frozen=True)
class SweepTrial:
    """One trial of a sweep: its settings as the schema has read them, and where it stands in the sweep."""

    settings: Any
    role: Literal["trial", "baseline"]
    label: str
    point: dict[str, Scalar]
    seed: int


@dataclass(frozen=True)
class ArmSettings:
    """An arm with everything in it: shared settings and axes, its own, and the overrides. `name` is empty if alone."""

    name: str
    settings: dict[str, Any]
    axes: Axes


@dataclass(frozen=True)
class Reader:
    """Reads settings by the schema; an error names the command line or the file, whichever has the key."""

    schema: Schema
    path: str
    overrides: Mapping[str, Any]

    def read(self, settings: dict[str, Any], label: str) -> Any:
        try:
            return self.schema.read(settings)
        except ValueError as error:
            key = getattr(error, "key", None) or ""
            is_override = any(f"{key}.".startswith(f"{name}.") for name in self.overrides)
            where = "command line" if is_override else self.path
            raise UserError(f"{where}: {error}" + (f" (at {label})" if label else "")) from None

    def trial(self, arm: ArmSettings, point: Mapping[str, Scalar], dataset: str | None, seed: int) -> SweepTrial:
        """The trial of an arm at a point of its axes. Raises UserError where its settings do not go together."""
        placed = {} if dataset is None else {"dataset": dataset}
        settings = overlay(nested(arm.settings), {**placed, **point, "seed": seed})
        trial = self.read(settings, _label(arm.name, point))
        flat = self.schema.flat(trial)
        # As the schema spells them: 1 is 1.0 where a setting is a float.
        values = {key: flat.get(key, value) for key, value in point.items()}
        place = {ARM: arm.name} if arm.name else {}
        return SweepTrial(trial, "trial", _label(arm.name, values), place | values, seed)


@dataclass(frozen=True)
class Space:
    """What a search chooses from: the axes of a sweep, on each of its data sets.

    A data set is None where the settings name it. `trial` makes the trial of a point, a data set and a seed; it raises
    UserError where the point has settings that do not go together.
    """

    axes: dict[str, list[Scalar] | Range]
    datasets: list[str | None]
    trial: Callable[[Mapping[str, Scalar], str | None, int], SweepTrial] = field(repr=False)

    def points(self) -> float:
        return math.prod(axis.size() if isinstance(axis, Range) else len(axis) for axis in self.axes.values())

    def draw(self, generator: random.Random) -> dict[str, Scalar]:
        return {
            key: axis.draw(generator) if isinstance(axis, Range) else generator.choice(axis)
            for key, axis in self.axes.items()
        }

    def probes(self, dataset: str | None, seed: int) -> Iterator[SweepTrial]:
        """Trials of every listed value and every bound. Raises UserError for one that goes neither with the first nor
        with the last values of the other axes."""
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

    `axes` holds each axis' distinct values in order (data set and seed apart); trials are ordered seed by seed. Where a
    search chooses them from the `space`, only baselines are among the trials, and `axes` has no values.
    """

    name: str
    description: str
    source: str
    axes: dict[str, list[Scalar]]
    seeds: list[int]
    shared: dict[str, Any]
    resources: ResourceRequest
    trials: list[SweepTrial] = field(repr=False)
    search: SearchSettings | None = None
    scheduler: SchedulerSettings | None = None
    space: Space | None = None
    tables: list[str] = field(default_factory=list)


def read_sweep(
    path: Path,
    schema: Schema,
    overrides: Mapping[str, Any] | None = None,
    seeds: int | None = None,
    scale: str = "full",
) -> Sweep:
    """The sweep of a YAML file.

    `overrides` maps dotted settings to values; a value replaces the axis of that name, a list of values becomes the
    axis, but for settings that are lists themselves. They go to the arms that have the setting or axis, or if none has
    it, to all. `seeds` counts seeds from 0. `scale` is full, or one of the file's; the sweep's name then ends with it.

    Raises UserError if the file cannot be read, has an unknown key (with the nearest known one), a wrong type, or leads
    to a trial that the schema refuses.
    """
    overrides = overrides or {}
    document = load(path) | ({} if seeds is None else {"seeds": seeds})
    try:
        file = SweepFile.model_validate(document)
    except ValidationError as error:
        raise UserError(f"{path}: {explain(error, FILE_KEYS)}") from None
    if scale != "full":
        file = _scaled(path, file, scale, keep_seeds=seeds is not None)
    shared, arms = _merge(path, file, overrides, schema.list_keys)
    reader = Reader(schema, str(path), overrides)
    # The data sets of a sweep are those of each of its arms; None where its settings name the only one.
    datasets: list[str | None] = arms[0].axes.get("dataset", [None])
    space = _space(file, arms[0], datasets, reader) if file.search else None
    trials = list(expand(file, shared, [] if space else arms, datasets, reader))
    values: dict[str, list[Scalar]] = {ARM: [*file.arms]} if file.arms else {}
    for key in dict.fromkeys(key for arm in arms for key in arm.axes):
        drawn = list(dict.fromkeys(trial.point[key] for trial in trials if key in trial.point))
        # Grid values keep the order of the file; drawn ones are sorted, since their order means nothing.
        is_range = any(isinstance(arm.axes.get(key), Range) for arm in arms)
        values[key] = sorted(drawn) if is_range and None not in drawn else drawn  # type: ignore[type-var]
    values.pop("dataset", None)
    rows = [*file.arms] if values else [file.sweep]  # A trial without axes is called by the sweep's name.
    if twice := next((name for name in rows if name in file.baselines), None):
        raise UserError(f"{path}: baseline {twice!r} has the name of {'an arm' if values else 'the sweep'}; rename it")
    return Sweep(
        name=file.sweep,
        description=file.description,
        source=str(path),
        axes=values,
        seeds=list(dict.fromkeys(file.seeds)),
        shared=shared,
        resources=file.resources,
        trials=trials,
        search=file.search,
        scheduler=file.scheduler,
        space=space,
        tables=list(dict.fromkeys(file.tables)),
    )


def _scaled(path: Path, file: SweepFile, name: str, keep_seeds: bool) -> SweepFile:
    """The file at one of its scales: other values, the same structure."""
    if name not in file.scales:
        raise UserError(f"{path}: the sweep has no scale {name!r}, only: {', '.join(['full', *file.scales])}")
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

    changed = shrink(f"scales.{name}", file, scale)
    if "dataset" in scale.settings:
        changed["axes"].pop("dataset", None)
    arms = {
        key: arm.model_copy(update=shrink(f"scales.{name}.arms.{key}", arm, scale.arms.get(key, Arm())))
        for key, arm in file.arms.items()
    }
    seeds = file.seeds if keep_seeds else scale.seeds or file.seeds
    changes = {**changed, "arms": arms, "seeds": seeds, "resources": scale.resources, "sweep": f"{file.sweep}-{name}"}
    return file.model_copy(update=changes)


def _merge(
    path: Path, file: SweepFile, overrides: Mapping[str, Any], lists: Collection[str]
) -> tuple[dict[str, Any], list[ArmSettings]]:
    shared = nested(file.settings)
    arms = []
    for name, arm in (file.arms or {"": Arm()}).items():
        settings = overlay(nested(file.settings), arm.settings)
        arms.append(ArmSettings(name, settings, {**file.axes, **arm.axes}))
    for key, value in overrides.items():
        having = [merged for merged in arms if key in merged.axes or key in flat(merged.settings)] or arms
        if len(having) == len(arms):
            _override(shared, {}, key, value, lists)
        for merged in having:
            _override(merged.settings, merged.axes, key, value, lists)
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


def _space(file: SweepFile, arm: ArmSettings, datasets: list[str | None], reader: Reader) -> Space:
    """The space of a sweep with a search; raises UserError where there is nothing to search."""
    assert file.search is not None
    path = reader.path
    if file.arms:
        raise UserError(f"{path}: a search has one space, so it cannot have arms; write a sweep for each arm")
    if "samples" in file.model_fields_set:
        raise UserError(f"{path}: samples counts random draws of a sweep without search; write search.trials")
    axes = {key: axis for key, axis in arm.axes.items() if key != "dataset"}
    if not axes:
        raise UserError(f"{path}: a search needs axes, for instance method.beta: {{log_uniform: [0.01, 10]}}")
    if data := next((key for key in axes if key in DATA_KEYS), None):
        raise UserError(f"{path}: {data!r} changes the data, so its values cannot be compared; it cannot be searched")
    space = Space(axes, datasets, functools.partial(reader.trial, arm))
    count, trials = space.points(), file.search.trials
    if count <= trials:
        raise UserError(
            f"{path}: search.trials {trials} is as many as the {count} points of its axes; leave search out, and the "
            "grid runs each of them once"
        )
    for dataset in datasets:
        list(space.probes(dataset, file.seeds[0]))
    return space


def expand(
    file: SweepFile,
    shared: Mapping[str, Any],
    arms: Sequence[ArmSettings],
    datasets: Sequence[str | None],
    reader: Reader,
) -> Iterator[SweepTrial]:
    """The trials of a sweep, seed by seed: baselines, which replace `shared` settings, and the grid of each arm.

    Raises UserError for a trial that the schema refuses, and where there are too many.
    """
    generator = random.Random(file.sample_seed)
    grids = [_grid(arm, file.samples, generator) for arm in arms]
    size = sum(math.prod(map(len, grid)) for grid in grids) * len(datasets) * len(file.seeds)
    if size > MOST_TRIALS:
        raise UserError(f"{reader.path}: the sweep has {size:,} trials; at most {MOST_TRIALS:,} are planned at once")
    for seed, dataset in itertools.product(dict.fromkeys(file.seeds), datasets):
        placed = {} if dataset is None else {"dataset": dataset}
        for name, replaced in file.baselines.items():
            settings = {**shared, **nested(replaced), **placed, "seed": seed}
            yield SweepTrial(reader.read(settings, f"baseline {name!r}"), "baseline", name, {}, seed)
        for arm, grid in zip(arms, grids, strict=True):
            seen: set[str] = set()
            for parts in itertools.product(*grid):
                drawn = {key: value for part in parts for key, value in part.items()}
                trial = reader.trial(arm, {key: drawn[key] for key in arm.axes if key != "dataset"}, dataset, seed)
                # 1 and 1.0, or two draws of one choice, are the same trial.
                if (point := repr(trial.point)) not in seen:
                    seen.add(point)
                    yield trial


def _grid(arm: ArmSettings, samples: int, generator: random.Random) -> list[list[dict[str, Scalar]]]:
    """What crosses with what in an arm: one entry for each grid axis, and one for all random draws together."""
    ranges = {key: axis for key, axis in arm.axes.items() if isinstance(axis, Range)}
    grid = [[{key: value} for value in axis] for key, axis in arm.axes.items() if key not in {*ranges, "dataset"}]
    draws = [{key: axis.draw(generator) for key, axis in ranges.items()} for _ in range(samples)]
    return [*grid, draws] if ranges else grid


def _label(arm: str, point: Mapping[str, Scalar]) -> str:
    parts = ((key.rsplit(".", 1)[-1], value) for key, value in point.items())
    spelled = (f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in parts)
    return " ".join(filter(None, [arm, *spelled]))
