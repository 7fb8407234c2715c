"""From settings and axes to trials: grids, random draws, and the space of a search."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sweeps.errors import UserError
from sweeps.file import MOST_TRIALS, Axes, Range, Scalar, SweepFile
from sweeps.settings import nested, overlay

ARM = "arm"
"""Under this name the arm of a trial stands among its axes."""


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
        """How many points there are."""
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
