"""The content of a sweep file: what can be written in it, of which type, and what each key means."""

import math
import random
import unicodedata
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    Strict,
    ValidationError,
    field_validator,
    model_validator,
)

from sweeps.collapse import Collapse
from sweeps.errors import explain

Scalar = bool | int | float | str | None

MOST_TRIALS = 1_000_000


class Range(BaseModel, extra="forbid", frozen=True):
    """Random draws along an axis: `uniform`, `log_uniform` or `integers` between bounds, or a `choice` from a list."""

    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integers: tuple[int, int] | None = None
    choice: list[Scalar] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = self.model_dump(exclude_none=True)
        if len(given) != 1:
            raise ValueError("give exactly one of uniform, log_uniform, integers, choice")
        if self.choice:
            return self
        ((kind, (low, high)),) = given.items()
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"{kind} needs two finite bounds, the lower first, not [{low}, {high}]")
        if self.log_uniform and low <= 0:
            raise ValueError(f"log_uniform needs positive bounds, not [{low}, {high}]")
        return self

    def draw(self, generator: random.Random) -> Scalar:
        if self.uniform:
            return generator.uniform(*self.uniform)
        if self.log_uniform:
            return math.exp(generator.uniform(*map(math.log, self.log_uniform)))
        if self.integers:
            return generator.randint(*self.integers)
        return generator.choice(self.ends())

    def size(self) -> float:
        if self.integers:
            return self.integers[1] - self.integers[0] + 1
        return len(self.choice) if self.choice else math.inf

    def ends(self) -> list[Scalar]:
        """The bounds, or all that there is to choose from."""
        return list(self.choice or self.uniform or self.log_uniform or self.integers or ())


def _seed_list(value: object) -> object:
    # A number of seeds is short for their list, counted from 0.
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        return value
    if value > MOST_TRIALS:
        raise ValueError(f"too many seeds; at most {MOST_TRIALS:,} trials are planned at once")
    return list(range(value))


def _check_name(name: str) -> str:
    # Names stand in names of files, which have room for 255 bytes, in columns of databases, and on terminals.
    if not 1 <= len(name.strip()) <= len(name) <= 100 or any(unicodedata.category(c) in CONTROL for c in name):
        raise ValueError("a name is 1 to 100 characters without control characters and line breaks")
    return name


CONTROL = ("Cc", "Cs", "Zl", "Zp")  # Kinds of characters that steer a terminal, break a line, or cannot be encoded.
RESERVED = ("tables",)  # Folders of results that are not those of a sweep.
Name = Annotated[str, AfterValidator(_check_name)]
Axes = dict[str, Any]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_seed_list)]


class Arm(BaseModel, extra="forbid", frozen=True, strict=True):
    """A part of a sweep that has settings and axes of its own beside the shared ones, one method for instance."""

    settings: dict[str, Any] = Field({}, description="Settings on top of the shared ones.")
    axes: Axes = Field({}, description="Axes besides the shared ones.")

    @field_validator("axes", mode="before")
    @classmethod
    def _read_axes(cls, axes: Any) -> Any:
        return {key: read_axis(str(key), values) for key, values in axes.items()} if isinstance(axes, Mapping) else axes


class ResourceRequest(BaseModel, extra="forbid", frozen=True):
    """What a trial asks for, unless the command line says otherwise; it never enters a trial's identity."""

    cpus: float | None = Field(None, ge=1, description="CPUs of each process of a trial.")
    gpus: float | None = Field(None, ge=0, description="GPUs: a fraction of one, or several with a process for each.")
    ranks: int | None = Field(None, ge=1, description="Processes of a trial without GPUs.")


class Scale(Arm):
    """A smaller version of a sweep: settings and axes that replace those of the file, of arms too; and resources."""

    arms: dict[str, Arm] = Field({}, description="What to replace in arms.")
    resources: ResourceRequest = Field(ResourceRequest(), description="What a trial of this size asks for.")
    seeds: Seeds | None = Field(None, min_length=1, description="Seeds, or how many.")


def _named(value: object) -> object:
    # `search: optuna` is short for `search: {name: optuna}`.
    return {"name": value} if isinstance(value, str) else value


class SearchSettings(BaseModel, extra="forbid", frozen=True, strict=True):
    """Suggestions of a sampler instead of a grid; `search: optuna` alone means the defaults."""

    name: Literal["optuna"] = Field(description="Who suggests: optuna, by its TPE sampler.")
    trials: int = Field(20, ge=1, le=100_000, description="Suggestions on each data set; each runs with every seed.")
    objectives: dict[str, Literal["maximize", "minimize"]] = Field(
        {"validation/accuracy": "maximize"}, min_length=1, description="Metrics; their means over the seeds count."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of the suggestions.")
    startup: int = Field(10, ge=1, description="Suggestions drawn at random before the sampler learns from results.")


class AshaSettings(BaseModel, extra="forbid", frozen=True, strict=True):
    """Early stopping of what falls behind; `scheduler: asha` alone means the defaults."""

    name: Literal["asha"] = Field("asha", description="Asynchronous successive halving (Li et al., MLSys 2020).")
    metric: str = Field("train/online_accuracy", description="A metric that is logged after every epoch.")
    mode: Literal["max", "min"] = Field("max", description="Whether the metric should be high or low.")
    grace: int = Field(3, ge=1, description="Epochs that every trial has.")
    reduction: int = Field(3, ge=2, description="One in so many goes on at each rung; rungs are so many times apart.")

    def rungs(self, epochs: int) -> list[int]:
        """The epochs after which a trial of so many can be stopped; never after the last, when nothing is saved."""
        rungs, rung = [], self.grace
        while rung < epochs:
            rungs.append(rung)
            rung *= self.reduction
        return rungs

    def __str__(self) -> str:
        return f"{self.name} ({self.metric} {self.mode}, grace {self.grace}, reduction {self.reduction})"


class CollapseSettings(BaseModel, extra="forbid", frozen=True, strict=True):
    """Early stopping of what has collapsed; `scheduler: collapse` alone means the defaults."""

    name: Literal["collapse"] = Field("collapse", description="Stops what has collapsed, by the rules of findings.")
    kinds: list[Annotated[Collapse, Strict(False)]] = Field(
        # Not intra-cluster: on few images good models fall below its threshold, see docs/search.md.
        [Collapse.REPRESENTATION, Collapse.CLUSTER, Collapse.DIMENSIONAL],
        min_length=1,
        description="Kinds of collapse on which a trial is stopped.",
    )
    patience: int = Field(3, ge=1, description="Measured epochs in a row at which a trial must have collapsed.")
    grace: int = Field(3, ge=1, description="Epochs that every trial has.")

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(self.kinds)}, patience {self.patience}, grace {self.grace})"


SchedulerSettings = AshaSettings | CollapseSettings
SCHEDULERS: dict[str, type[AshaSettings] | type[CollapseSettings]] = {
    "asha": AshaSettings,
    "collapse": CollapseSettings,
}


def _read_scheduler(value: object) -> object:
    value = _named(value)
    if value is None:
        return None
    name = value.get("name") if isinstance(value, Mapping) else None
    if not isinstance(name, str) or name not in SCHEDULERS:
        raise ValueError(f"scheduler: its name must be {' or '.join(map(repr, SCHEDULERS))}")
    try:
        return SCHEDULERS[name].model_validate(value)
    except ValidationError as error:
        keys = [f"scheduler.{key}" for key in SCHEDULERS[name].model_fields]
        raise ValueError(explain(error, keys, "scheduler.")) from None


class SweepFile(Arm):
    """The content of a sweep file."""

    sweep: Name = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name, of the folder of results too.")
    description: str = Field("", description="A sentence for tables and the tracking store.")
    settings: dict[str, Any] = Field({}, description="What all trials share.")
    axes: Axes = Field({}, description="Dotted setting to a list of values or a `Range`.")
    arms: dict[Name, Arm] = Field({}, description="Name to settings and axes; shared axes cross with those of each.")
    scales: dict[Literal["smoke", "small"], Scale] = Field({}, description="Smaller versions of the same structure.")
    samples: int = Field(1, ge=1, le=100_000, description="Random draws, if an axis is a range.")
    sample_seed: int = Field(0, ge=0, description="Seed of those draws.")
    seeds: Seeds = Field([0], min_length=1, description="Seeds, or how many (counted from 0).")
    resources: ResourceRequest = Field(ResourceRequest(), description="What a trial asks for: cpus, gpus, ranks.")
    search: Annotated[SearchSettings, BeforeValidator(_named)] | None = Field(
        None, description="Suggest trials from the axes as a space instead of running all that they span."
    )
    scheduler: Annotated[SchedulerSettings | None, BeforeValidator(_read_scheduler)] = Field(
        None, description="Stop trials early that do worse than others, or that have collapsed."
    )
    tables: list[str] = Field([], description="Tables to write with the sweep's report, by their names.")
    baselines: dict[Name, dict[str, Any]] = Field(
        {}, description="Name to settings that replace the shared ones; one trial a seed and data set."
    )

    @field_validator("sweep")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name.lower() in RESERVED:
            raise ValueError("a sweep needs another name than the folder of the paper's tables")
        return name


def read_axis(key: str, values: Any) -> list[Scalar] | Range:
    """An axis as written in a file or an override; raises ValueError with one sentence."""
    if key == "seed":
        raise ValueError("write seeds under 'seeds', not as an axis")
    if isinstance(values, Mapping):
        try:
            return Range.model_validate(values)
        except ValidationError as error:
            raise ValueError(f"axis {key!r}: {explain(error, list(Range.model_fields))}") from None
    if not isinstance(values, list) or not values:
        raise ValueError(f"axis {key!r} must be a list of values or a range such as {{log_uniform: [0.01, 10]}}")
    if not all(isinstance(value, bool | int | float | str | None) for value in values):
        raise ValueError(f"axis {key!r} must list plain values (numbers, words, true, false)")
    return values


FILE_KEYS = (
    *SweepFile.model_fields,
    *(f"search.{key}" for key in SearchSettings.model_fields),
    *(f"scheduler.{key}" for key in dict.fromkeys([*AshaSettings.model_fields, *CollapseSettings.model_fields])),
)
