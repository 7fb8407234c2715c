"""Sweep files: reading, checking and expanding them into one dict of settings a trial.

This package knows no trainer: what a trial's settings may be is said by a `Schema` that the caller brings.
"""

from __future__ import annotations

import difflib
import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator


class SweepError(ValueError):
    """A sweep cannot be run as written; the message is one sentence that names file and key."""


@dataclass(frozen=True)
class Schema:
    """What the settings of a trial may be.

    `read` returns the settings written out in full, or raises ValueError with one sentence that names the key.
    `known_keys` are the dotted names of all settings.
    """

    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    known_keys: Sequence[str]


Scalar = bool | int | float | str | None

ARM = "arm"
"""Under this name the arm of a trial stands among its axes."""


class Range(BaseModel):
    """Random draws along an axis: `uniform`, `log_uniform` or `integers` between bounds, or a `choice` from a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integers: tuple[int, int] | None = None
    choice: list[Scalar] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _exactly_one(self) -> Range:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of uniform, log_uniform, integers, choice")
        if given[0] == "choice":
            return self
        low, high = getattr(self, given[0])
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"{given[0]} needs two finite bounds, the lower first, not [{low}, {high}]")
        if given[0] == "log_uniform" and low <= 0:
            raise ValueError(f"log_uniform needs positive bounds, not [{low}, {high}]")
        return self

    def draw(self, generator: random.Random) -> Scalar:
        """One value; `generator` is the only source of randomness."""
        if self.uniform:
            return generator.uniform(*self.uniform)
        if self.log_uniform:
            return math.exp(generator.uniform(*map(math.log, self.log_uniform)))
        if self.integers:
            return generator.randint(*self.integers)
        assert self.choice is not None
        return generator.choice(self.choice)

    def size(self) -> int | None:
        """How many values there are; None where they are not countable."""
        if self.integers:
            return self.integers[1] - self.integers[0] + 1
        return len(self.choice) if self.choice else None

    def ends(self) -> list[Scalar]:
        """The bounds, or all that there is to choose from."""
        return list(self.choice or self.uniform or self.log_uniform or self.integers or ())


MOST_TRIALS = 1_000_000
"""That are planned at once."""

DATA_KEYS = ("image_size", "decode", "train_images", "test_images")
"""Settings that change the data, on which numbers cannot be compared with those on other data."""

LARGEST = 1_000_000
"""Bytes of a sweep file."""


def _seed_list(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        if value > MOST_TRIALS:
            raise ValueError(f"too many seeds; at most {MOST_TRIALS:,} trials are planned at once")
        return list(range(value))
    return value


Axes = dict[str, Any]


class Arm(BaseModel):
    """A part of a sweep that has settings and axes of its own beside the shared ones, one method for instance."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    settings: dict[str, Any] = Field(default_factory=dict, description="Settings on top of the shared ones.")
    axes: Axes = Field(default_factory=dict, description="Axes besides the shared ones.")

    @field_validator("axes", mode="before")
    @classmethod
    def _read_axes(cls, axes: Any) -> Any:
        return {key: _axis(str(key), values) for key, values in axes.items()} if isinstance(axes, Mapping) else axes


class ResourceRequest(BaseModel):
    """What a trial asks for, unless the command line says otherwise; it never enters a trial's identity."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpus: float | None = Field(None, ge=1, description="CPUs of each process of a trial.")
    gpus: float | None = Field(None, ge=0, description="GPUs: a fraction of one, or several with a process for each.")
    ranks: int | None = Field(None, ge=1, description="Processes of a trial without GPUs.")


class Scale(Arm):
    """A smaller version of a sweep: settings and axes that replace those of the file, of arms too; and resources."""

    arms: dict[str, Arm] = Field(default_factory=dict, description="What to replace in arms.")
    resources: ResourceRequest = Field(ResourceRequest(), description="What a trial of this size asks for.")
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_seed_list)] | None = Field(
        None, min_length=1, description="Seeds, or how many."
    )


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class Search(BaseModel):
    """Suggestions of a sampler instead of a grid; `search: optuna` alone means the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Literal["optuna"] = Field(description="Who suggests: optuna, by its TPE sampler.")
    trials: int = Field(20, ge=1, le=100_000, description="Suggestions on each data set; each runs with every seed.")
    objectives: dict[str, Literal["maximize", "minimize"]] = Field(
        {"validation/accuracy": "maximize"},
        min_length=1,
        description="Metrics as MLflow shows them; their means over the seeds count.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the suggestions.")
    startup: int = Field(10, ge=1, description="Suggestions drawn at random before the sampler learns from results.")


class Scheduler(BaseModel):
    """Early stopping; `scheduler: asha` alone means the defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Literal["asha"] = Field(description="Asynchronous successive halving (Li et al., MLSys 2020).")
    metric: str = Field("train/online_accuracy", description="A metric that is logged after every epoch.")
    mode: Literal["max", "min"] = Field("max", description="Whether the metric should be high or low.")
    grace: int = Field(3, ge=1, description="Epochs that every trial has.")
    reduction: int = Field(3, ge=2, description="One in so many goes on at each rung; rungs are so many times apart.")

    def rungs(self, epochs: int) -> list[int]:
        """The epochs after which a trial of so many can be stopped; never after the last, when nothing is saved."""
        found, rung = [], self.grace
        while rung < epochs:
            found.append(rung)
            rung *= self.reduction
        return found

    def __str__(self) -> str:
        return f"{self.name} ({self.metric} {self.mode}, grace {self.grace}, reduction {self.reduction})"


class SweepFile(Arm):
    """The content of a sweep file."""

    sweep: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name; results go to results/<name>/<dataset>/."
    )
    description: str = Field("", description="A sentence for tables and the tracking store.")
    settings: dict[str, Any] = Field(default_factory=dict, description="What all trials share.")
    axes: Axes = Field(default_factory=dict, description="Dotted setting to a list of values or a `Range`.")
    arms: dict[str, Arm] = Field(
        default_factory=dict, description="Name to settings and axes; the shared axes cross with those of each arm."
    )
    scales: dict[Literal["smoke", "small"], Scale] = Field(
        default_factory=dict, description="Smaller versions of the sweep, of the same structure."
    )
    samples: int = Field(1, ge=1, le=100_000, description="Random draws, if an axis is a range.")
    sample_seed: int = Field(0, ge=0, description="Seed of those draws.")
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_seed_list)] = Field(
        default=[0], min_length=1, description="Seeds, or how many (counted from 0)."
    )
    resources: ResourceRequest = Field(ResourceRequest(), description="What a trial asks for: cpus, gpus, ranks.")
    search: Annotated[Search, BeforeValidator(_named)] | None = Field(
        None, description="Suggest trials from the axes as a space instead of running all that they span."
    )
    scheduler: Annotated[Scheduler, BeforeValidator(_named)] | None = Field(
        None, description="Stop trials early that do worse than others."
    )
    packing: Literal["auto", "off"] | Annotated[int, Field(ge=1)] = Field(
        "off", description="Trials that differ in numbers trained together as one model: auto, off, or at most N."
    )
    baselines: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Name to settings that replace the shared ones; one trial a seed and data set.",
    )


def _axis(key: str, values: Any) -> list[Scalar] | Range:
    """An axis as written in a file or an override; raises ValueError with one sentence."""
    if key == "seed":
        raise ValueError("write seeds under 'seeds', not as an axis")
    if isinstance(values, Range):
        return values
    if isinstance(values, Mapping):
        try:
            return Range.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"axis {key!r}: {_explain(error, list(Range.model_fields))}") from None
    if not isinstance(values, list) or not values:
        raise ValueError(f"axis {key!r} must be a list of values or a range such as {{log_uniform: [0.01, 10]}}")
    if not all(isinstance(value, bool | int | float | str | None) for value in values):
        raise ValueError(f"axis {key!r} must list plain values (numbers, words, true, false)")
    return values


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
        """The trial at a point; raises SweepError where the point has settings that do not go together."""
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
        """Trials that show mistakes: every listed value and every bound once. Raises SweepError for a value that goes
        neither with the first nor with the last values of the other axes."""
        ends = {key: axis.ends() if isinstance(axis, Range) else axis for key, axis in self.axes.items()}
        first, last = ({key: values[place] for key, values in ends.items()} for place in (0, -1))
        for key, values in ends.items():
            for value in values:
                try:
                    yield self.trial({**first, key: value}, dataset, seed)
                except SweepError:
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
    axis. In a sweep of several arms they go to the arms that have the setting or axis, or if none has it, to all.
    `seeds` counts seeds from 0. `scale` is full, or one of the file's scales; the sweep's name then ends with it.

    Raises SweepError, before anything is started, if the file cannot be read, has an unknown key (with the nearest
    known one), a wrong type, or leads to a trial that the schema refuses.
    """
    overrides = overrides or {}
    document = _load(path)
    if seeds is not None:
        document = {**document, "seeds": seeds}
    try:
        file = SweepFile.model_validate(document)
    except ValidationError as error:
        raise SweepError(f"{path}: {_explain(error)}") from None
    if scale != "full":
        file = _scaled(path, file, scale, keep_seeds=seeds is not None)
    settings, arms = _merge(path, file, overrides)
    for arm in arms:
        unknown = [key for key in _leaves(arm.settings) | arm.axes.keys() if not _known(key, schema.known_keys)]
        if unknown:
            where = _origin(path, unknown[0], overrides)
            raise SweepError(f"{where}: unknown key {unknown[0]!r}; {_nearest(unknown[0], schema.known_keys)}")

    def read(own: dict[str, Any], label: str) -> dict[str, Any]:
        try:
            return schema.read(own)
        except ValueError as error:
            where = _origin(path, getattr(error, "key", None), overrides)
            raise SweepError(f"{where}: {error}" + (f" (at {label})" if label else "")) from None

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


def parse_override(text: str) -> tuple[str, Any]:
    """`key=value` as given on a command line; the value is YAML. Raises SweepError if it is not of that form."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise SweepError(f"--set {text!r}: write it as key=value, for instance epochs=50")
    try:
        return key.strip(), yaml.load(value, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise SweepError(f"--set {text!r}: the value is not valid YAML") from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also reads 1e-3 as a number and refuses a key that is written twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} is written twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        # Sweep files need no aliases, and nested ones expand to gigabytes.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", event.start_mark)
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.exists() and not path.is_file():
            raise SweepError(f"{path}: not a file; a sweep file is a short text in YAML")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise SweepError(f"{path}: no such sweep file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"{path}: cannot be read ({error})") from None
    if len(content) > LARGEST:
        raise SweepError(f"{path}: larger than {LARGEST:,} bytes; a sweep file is a short text")
    try:
        document = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        deep = "nested too deeply" if isinstance(error, RecursionError) else None
        raise SweepError(f"{path}: not valid YAML{where}: {deep or getattr(error, 'problem', None) or error}") from None
    if not isinstance(document, dict):
        raise SweepError(
            f"{path}: a sweep file is a group of keys (sweep, settings, axes, ...), not {type(document).__name__}"
        )
    return document


def _scaled(path: Path, file: SweepFile, name: str, keep_seeds: bool) -> SweepFile:
    """The file at one of its scales: other values, the same structure."""
    if name not in file.scales:
        known = ", ".join(["full", *file.scales])
        raise SweepError(f"{path}: the sweep has no scale {name!r}, only: {known}")
    scale = file.scales[name]
    if foreign := [arm for arm in scale.arms if arm not in file.arms]:
        raise SweepError(f"{path}: scales.{name}.arms: there is no arm {foreign[0]!r}")

    def shrink(where: str, arm: Arm, smaller: Arm) -> dict[str, Any]:
        for key, values in smaller.axes.items():
            size = len(arm.axes[key]) if isinstance(arm.axes.get(key), list) else None
            if key != "dataset" and (not isinstance(values, list) or len(values) != size):
                raise SweepError(
                    f"{path}: {where}.axes: a scale must keep the number of values of {key!r}, which is {size or 0}"
                )
        settings = _overlay(nested(arm.settings), smaller.settings)
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


def _merge(path: Path, file: SweepFile, overrides: Mapping[str, Any]) -> tuple[dict[str, Any], list[_Merged]]:
    """The shared settings, and each arm; overrides applied."""
    shared = nested(file.settings)
    arms = []
    for name, arm in (file.arms or {"": Arm()}).items():
        settings = _overlay(nested(file.settings), arm.settings)
        arms.append(_Merged(name, settings, {**file.axes, **arm.axes}))
    for key, value in overrides.items():
        having = [one for one in arms if key in one.axes or key in _leaves(one.settings)] or arms
        if len(having) == len(arms):
            _override(shared, {}, key, value)
        for one in having:
            _override(one.settings, one.axes, key, value)
    if any(isinstance(arm.axes.get("dataset"), Range) for arm in arms):
        raise SweepError(f"{path}: axis 'dataset' must be a list of names")
    if any("dataset" in arm.axes for arm in file.arms.values()):
        raise SweepError(f"{path}: 'dataset' must be an axis of all arms or of none")
    return shared, arms


def _override(settings: dict[str, Any], axes: Axes, key: str, value: Any) -> None:
    if isinstance(value, list):
        try:
            axes[key] = _axis(key, value)
        except ValueError as error:
            raise SweepError(f"command line: {error}") from None
    else:
        axes.pop(key, None)
        _assign(settings, key, value)


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
        raise SweepError(f"{path}: the sweep has {size:,} trials; at most {MOST_TRIALS:,} are planned at once")
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
                identity = repr(sorted(_flat(trial.settings)))
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
        _assign(own, key, value)
    full = read(own, _label(arm, point))
    spelled = dict(_flat(full))
    values = {key: spelled.get(key, value) for key, value in point.items()}
    return SweepTrial(full, "trial", _label(arm, values), ({ARM: arm} if arm else {}) | values, seed)


def _datasets(arms: Sequence[_Merged]) -> list[str | None]:
    """The data sets of a sweep, which are those of each of its arms; None where its settings name the only one."""
    found: list[str | None] = arms[0].axes.get("dataset", [None])
    return found


def _space(
    path: Path, file: SweepFile, arms: Sequence[_Merged], read: Callable[[dict[str, Any], str], dict[str, Any]]
) -> Space:
    """The space of a sweep with a search; raises SweepError where there is nothing to search."""
    assert file.search is not None
    if file.arms:
        raise SweepError(f"{path}: a search has one space, so it cannot have arms; write a sweep for each arm")
    if "samples" in file.model_fields_set:
        raise SweepError(f"{path}: samples counts random draws of a sweep without search; write search.trials")
    axes = {key: axis for key, axis in arms[0].axes.items() if key != "dataset"}
    if not axes:
        raise SweepError(f"{path}: a search needs axes, for instance method.beta: {{log_uniform: [0.01, 10]}}")
    if data := next((key for key in axes if key in DATA_KEYS), None):
        raise SweepError(f"{path}: {data!r} changes the data, so its values cannot be compared; it cannot be searched")
    space = Space(axes, _datasets(arms), arms[0].settings, read)
    count, trials = space.points(), file.search.trials
    if count is not None and count <= trials:
        raise SweepError(
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


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy in which dotted keys have become groups."""
    return _overlay({}, settings)


def _overlay(settings: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`settings`, changed: those of `changes`, dotted or in groups, are assigned to it one by one."""
    for key, value in changes.items():
        _assign(settings, str(key), nested(value) if isinstance(value, Mapping) else value)
    return settings


def _assign(settings: dict[str, Any], key: str, value: Any) -> None:
    *groups, leaf = key.split(".")
    for group in groups:
        inner = settings.get(group)
        if isinstance(inner, str):  # `method: cplearn` is short for `method: {name: cplearn}`
            inner = {"name": inner}
        settings[group] = inner if isinstance(inner, dict) else {}
        settings = settings[group]
    own = settings.get(leaf)
    # A group of another name has other settings; those of the old one mean nothing to it.
    if isinstance(value, Mapping) and isinstance(own, dict) and value.get("name", own.get("name")) == own.get("name"):
        own.update(value)
    else:
        settings[leaf] = value


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _leaves(settings: Mapping[str, Any]) -> dict[str, Any]:
    return dict(_flat(settings))


def _known(key: str, known: Sequence[str]) -> bool:
    # A group written as one word (`method: cplearn`) is known by its members.
    return key in known or any(name.startswith(key + ".") for name in known)


def _nearest(key: str, known: Sequence[str]) -> str:
    leaf = key.rsplit(".", 1)[-1]
    near = [name for name in known if name.rsplit(".", 1)[-1] == leaf] or difflib.get_close_matches(key, known, 1)
    near = near or difflib.get_close_matches(leaf, [name.rsplit(".", 1)[-1] for name in known], 1)
    return f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"


FILE_KEYS = (
    *SweepFile.model_fields,
    *(f"search.{key}" for key in Search.model_fields),
    *(f"scheduler.{key}" for key in Scheduler.model_fields),
)


def _explain(error: ValidationError, known: Sequence[str] = FILE_KEYS) -> str:
    """One sentence for the first of pydantic's complaints."""
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {_nearest(key, known)}"
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    where = f"{key}: " if key and first["type"] != "value_error" else ""
    shown = "" if isinstance(first["input"], Mapping | list) else f", not {first['input']!r}"
    return f"{where}{message[0].lower()}{message[1:]}{shown}"
