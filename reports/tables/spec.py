"""Table specifications: what stands in rows and columns, as YAML files beside this module or of the user's own.

The table of a sweep has one too, which `tables.sweep` makes from the sweep's manifest: its axes are the dimensions.
"""

import dataclasses
import hashlib
import json
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from reports import metrics, spelling
from reports.metrics import Metric
from reports.tables.model import EXTRA, Preference
from sweeps.errors import UserError, explain, nearest
from sweeps.loading import load
from sweeps.record import TRAIN, UNSEEN, param_text

FOLDER = Path(__file__).parent
PUBLISHED = Path(__file__).parent.parent / "published.yaml"
METRIC, AXES, CRITERION = "metric", "axes", "criterion"
"""Keys of dimensions that are no settings: the metrics of the table, all axes of a sweep, the criteria of a study."""
OF_GRIDS = ("grid/", "collapsed/", "regret/", "rank_accuracy/", "rank_ami/")
"""So begin metrics that are computed from a grid of settings."""
EXPLAIN_THEMSELVES = ("method.name", "dataset")
"""Settings whose values a reader understands without the setting's name."""

Scalar = bool | int | float | str | None


def _check_fingerprint(where: dict[str, Any]) -> dict[str, Any]:
    if isinstance(where.get(EXTRA[0]), float):
        raise ValueError(f"{EXTRA[0]}: YAML takes it for a number; write it in quotes")
    return where


Where = Annotated[dict[str, Scalar | list[Scalar]], AfterValidator(_check_fingerprint)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Settings = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v), Field(min_length=1)]
"""Settings under their dotted names; a word alone is short for a list of one."""


class Criterion(Strict):
    """A metric that settings may be chosen by, since it never sees the test split."""

    by: str = Field(description="A metric under validation/, select/ or train/.")
    better: Preference = Field("higher", description="Which value wins.")

    @model_validator(mode="after")
    def _is_honest(self) -> Self:
        if not self.by.startswith(UNSEEN):
            raise ValueError(
                f"{self.by!r} is measured on the test split, so choosing by it would flatter the table; choose by "
                "validation/..., select/... or train/..."
            )
        self._check_that_it_compares()
        for ending, better, where in (("loss", "lower", "lowest"), ("/alpha_req", "nearest 1", "nearest to 1")):
            if self.by.endswith(ending) and self.better != better:
                raise ValueError(f"{self.by!r} is best where it is {where}; write better: {better}")
        return self

    def _check_that_it_compares(self) -> None:
        """Raise ValueError where its values of different settings mean different things."""


class Selection(Criterion):
    """Settings whose value is chosen for each cell by the mean of a criterion over seeds."""

    over: Settings = Field(description="The setting, method.beta for instance; a list if each method has another.")

    def _check_that_it_compares(self) -> None:
        is_loss = self.by.startswith(TRAIN) and not self.by.startswith(f"{TRAIN}online_")
        if is_loss and not all(key.startswith("optimizer.") for key in self.over):
            raise ValueError(
                f"{self.by!r} means another thing at each {' and '.join(self.over)}, so its values do not compare; "
                "choose by validation/... or select/..."
            )


class StudiedCriterion(Criterion):
    """A criterion whose choices are judged; `where` says of which trials."""

    where: Where = Field(default_factory=dict, description="Only trials with these settings.")


class StudySettings(Strict):
    """A table whose cells hold all settings of a method's weight instead of one: how much do these differ, how many
    collapse, how well does a criterion choose among them?"""

    over: Settings = Field(description="The weights, of each method another; they span its grid.")
    criteria: dict[str, StudiedCriterion] = Field(default_factory=dict, description="Name to what chooses a setting.")
    mean: str | None = Field(None, description="The name of a last row, the mean of the others; default: none.")

    def named(self, by: str) -> StudiedCriterion | None:
        """The criterion with this metric."""
        return next((criterion for criterion in self.criteria.values() if criterion.by == by), None)


class Shown(Strict):
    """A metric of a table, with what is to be shown otherwise than usual."""

    name: str = Field(pattern=r"^[^/\s]+(/[^/\s]+)+$", description="As logged, probe/accuracy for instance.")
    heading: str | None = Field(None, description="How it is called.")
    short: str | None = Field(None, description="How it is called in LaTeX under a heading of several columns.")
    decimals: int | None = Field(None, ge=0, le=6, description="Digits after the point.")
    percent: bool = Field(False, description="Whether to multiply by 100.")
    spread: bool | None = Field(None, description="Whether to show the standard deviation.")
    better: Literal["higher", "lower", "neither"] | None = Field(None, description="Which direction is ranked.")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.name not in metrics.METRICS and self.heading is None:
            hint = nearest(self.name, list(metrics.METRICS))
            raise ValueError(f"metric {self.name!r} is not known; {hint} To show it all the same, give it a heading")
        return self

    @property
    def metric(self) -> Metric:
        usual = metrics.METRICS.get(self.name)
        usual = usual or Metric(self.name, self.heading or self.name, self.name.partition("/")[0], self.name)
        changes = self.model_dump(exclude={"name", "better"}, exclude_none=True)
        if self.heading and not self.short:
            changes["short"] = self.heading
        if self.better:
            changes["better"] = None if self.better == "neither" else self.better
        return dataclasses.replace(usual, **changes)


class Dimension(Strict):
    """What the rows or columns differ in: a setting under its dotted name (or `dataset`, `metric`), or named cases.

    A trial has values along a dimension: that of the setting, or the names of all cases that it is one of.
    """

    key: str | None = Field(None, description="A setting: its values make the rows, in order.")
    cases: dict[str, Where] | None = Field(None, min_length=1, description="Name to the settings that make it.")
    heading: str | None = Field(None, description="Default: the paper's symbol or the last part of the key.")
    names: dict[str, str] = Field(default_factory=dict, description="Value to how it is printed.")

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.key is None) == (self.cases is None):
            raise ValueError("give either key or cases")
        return self

    @property
    def title(self) -> str:
        return self.heading or (spelling.headings([self.key])[0] if self.key else "")

    def labelled(self, text: str) -> str:
        """The text of a value, after the title unless a reader understands it without."""
        return text if self.cases or self.key in EXPLAIN_THEMSELVES else f"{self.title} = {text}"

    def values(self, settings: Mapping[str, Any]) -> list[Hashable]:
        """The values along the dimension of a trial with these settings."""
        if self.cases:
            return [name for name, where in self.cases.items() if matches(settings, where)]
        value = settings.get(self.key or "")
        return [value if isinstance(value, Hashable) else str(value)]

    def definition(self, value: Hashable) -> dict[str, Any]:
        """The settings that a value stands for."""
        where = self.cases[str(value)] if self.cases else {self.key or "": value}
        return {key: setting for key, setting in where.items() if not isinstance(setting, list)}

    def rank(self, value: Hashable) -> tuple[Any, ...]:
        """Orders values: nothing, cases and named values as they are listed, numbers by size, then words."""
        listed = [*(self.cases or self.names)]
        if str(value) in listed:
            return 1, listed.index(str(value)), ""
        if isinstance(value, int | float):
            return 2, value, ""
        return (0 if value is None else 3), 0, str(value)

    def texts(self, values: Sequence[Hashable]) -> dict[Hashable, str]:
        """How each of the values is printed."""
        return {value: self.names.get(str(value), self._text(value)) for value in values}

    def _text(self, value: Hashable) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            return f"{value:,}"
        if isinstance(value, str) and self.key in EXPLAIN_THEMSELVES:
            return spelling.SHOWN_AS.get(value) or (value.removeprefix("folder-") if self.key == "dataset" else value)
        return spelling.values([value])[0]


class Axis(Dimension):
    """A dimension that a sweep declares: its values are printed as they are, in the order of the trials."""

    def labelled(self, text: str) -> str:
        return f"{self.title} = {text}"

    def rank(self, value: Hashable) -> tuple[Any, ...]:
        return ()

    def texts(self, values: Sequence[Hashable]) -> dict[Hashable, str]:
        return dict(zip(values, spelling.values(values), strict=True))


class ArmAxes(Axis):
    """Axes that only some arms of a sweep have, in one dimension: `λ = 0.05`. A column each would be nearly empty."""

    keys: tuple[str, ...]

    def labelled(self, text: str) -> str:
        return text

    def values(self, settings: Mapping[str, Any]) -> list[Hashable]:
        return [tuple(settings.get(key) for key in self.keys)]

    def texts(self, values: Sequence[Hashable]) -> dict[Hashable, str]:
        columns = [spelling.values(column) for column in zip(*values, strict=True)]
        headings = spelling.headings(self.keys)
        nothing = spelling.values([None])[0]
        parts = [
            ", ".join(f"{name} = {text}" for name, text in zip(headings, texts, strict=True) if text != nothing)
            for texts in zip(*columns, strict=True)
        ]
        return {value: part or nothing for value, part in zip(values, parts, strict=True)}


def matches(settings: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    """Whether settings have the values of `where`, or of a list one of them.

    Values with one text are equal: a fingerprint of digits alone is a number in YAML, and runs know texts only.

    >>> matches({"data fingerprint": "7201"}, {"data fingerprint": 7201})
    True
    """

    def has(value: Any, wanted: Any) -> bool:
        allowed = [wanted, *wanted] if isinstance(wanted, list) else [wanted]
        return value in allowed or param_text(value) in map(param_text, allowed)

    return all(has(settings.get(key), wanted) for key, wanted in where.items())


def _word_as(field: str) -> BeforeValidator:
    """A word alone is short for a group of keys that has only this one."""
    return BeforeValidator(lambda value: {field: value} if isinstance(value, str) else value)


class TableSpec(Strict):
    """The content of a table specification."""

    table: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="Name; goes to results/tables/<name>/."
    )
    title: str = Field(description="A sentence for the caption.")
    where: Where = Field(default_factory=dict, description="Only runs with these settings; a list: any of them.")
    rows: list[Annotated[Dimension, _word_as("key")]] = Field(min_length=1, description="Outermost first.")
    columns: list[Annotated[Dimension, _word_as("key")]] = Field(min_length=1, description="Outermost first.")
    metrics: list[Annotated[Shown, _word_as("name")]] = Field(min_length=1, description="In order.")
    essential: list[list[str]] = Field(
        default_factory=list, description="Metrics that stay where space is scarce, in groups that stay or go together."
    )
    baselines: list[str] = Field(default_factory=list, description="Rows that stand first and do not compete.")
    select: Selection | None = Field(None, description="A setting to choose instead of showing all of its values.")
    study: StudySettings | None = Field(None, description="Make each number of a whole grid of settings.")
    published: str | None = Field(None, description="A group of published numbers to stand beside ours.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        keys = [dimension.key for dimension in (*self.rows, *self.columns) if dimension.key]
        if self.per_sweep:
            if keys != [AXES, METRIC] or len(self.rows) > 1 or self.select or self.study or self.published:
                raise ValueError("rows: [axes] goes with columns: [metric] alone, without select, study or published")
            return self
        self._check_study(keys)
        if keys.count(METRIC) != 1:
            raise ValueError("metric must stand once, in rows or in columns")
        if METRIC in [dimension.key for dimension in self.rows[1:]]:
            raise ValueError("metric must be the first of the rows")
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"{twice} stands twice in rows and columns")
        if chosen := next((key for key in (self.select.over if self.select else ()) if key in keys), None):
            raise ValueError(f"{chosen} is chosen, so it cannot be in rows or columns too")
        names = {name for dimension in self.rows for name in dimension.cases or {}}
        if unknown := next((name for name in self.baselines if name not in names), None):
            raise ValueError(f"baselines: no case is called {unknown!r}")
        return self

    def _check_study(self, keys: Sequence[str]) -> None:
        """Raise ValueError unless a table about grids, and no other, has metrics of grids, and all that they need."""
        of_grids = [shown.name for shown in self.metrics if shown.name.startswith(OF_GRIDS)]
        if not self.study:
            if of_grids or CRITERION in keys:
                raise ValueError(f"{[*of_grids, CRITERION][0]} is of a grid of settings; say under study which span it")
            return
        if len(of_grids) < len(self.metrics) or self.select or self.published:
            raise ValueError(f"study goes with metrics that begin with {', '.join(OF_GRIDS)}, no select, no published")
        if CRITERION in keys and (self.columns[-1].key != CRITERION or self.rows[0].key != METRIC):
            raise ValueError("criterion must be the last of the columns, and metric the first of the rows")
        if self.study.mean and all(dimension.key == METRIC for dimension in self.rows):
            raise ValueError("study.mean is a mean of rows, and there are none but metrics")
        if twice := next((key for key in self.study.over if key in keys), None):
            raise ValueError(f"{twice} spans the grid, so it cannot be in rows or columns too")
        for name in of_grids:
            by = name.partition("/")[2]
            of_criterion = not name.startswith(("grid/", "collapsed/"))
            if of_criterion and not (self.study.criteria if by == "*" else self.study.named(by)):
                raise ValueError(f"{name}: study.criteria has no criterion by {by}")
            if of_criterion and (by == "*") != (CRITERION in keys):
                raise ValueError(f"{name}: a star stands for the criterion of a column, and only there")

    @property
    def per_sweep(self) -> bool:
        """Whether its rows are the points of one sweep, on one data set."""
        return AXES in [dimension.key for dimension in self.rows]

    @cached_property
    def shown(self) -> dict[str, Metric]:
        return {shown.name: shown.metric for shown in self.metrics}

    @cached_property
    def hash(self) -> str:
        """Sixteen hexadecimal digits of the content."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


class Published(Strict):
    """Numbers printed elsewhere. An entry of `numbers` maps settings to values and metrics (they have a slash) to
    numbers, in the metric's own unit."""

    source: str = Field(description="Where they are printed.")
    caveat: str = Field(description="What a reader must know of them.")
    setting: dict[str, Scalar] = Field(
        default_factory=dict, description="Of all of them; with runs of another setting no difference is shown."
    )
    numbers: list[dict[str, Scalar]] = Field(min_length=1)

    def find(self, settings: Mapping[str, Any], metric: str) -> float | None:
        """The number published for a metric at settings; None if there is none."""
        for entry in self.numbers:
            value, where = entry.get(metric), {key: setting for key, setting in entry.items() if "/" not in key}
            if isinstance(value, int | float) and matches(settings, where):
                return float(value)
        return None


def names() -> list[str]:
    """The specifications that come with the program."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read(name: str) -> TableSpec:
    """The specification of this name, or in the YAML file of this path.

    Raises UserError, with the nearest known name or key, if there is none or it is not valid.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"no table {name!r}; {nearest(name, names())}, or a path to a YAML file of your own")
    content = load(path, "a table's specification")
    try:
        return TableSpec.model_validate(content)
    except ValidationError as error:
        group, *key = error.errors()[0]["loc"] or ("",)
        parts: dict[str, type[Strict]] = dict.fromkeys(("rows", "columns"), Dimension)
        parts |= {"metrics": Shown, "select": Selection, "study": StudySettings}
        part = parts.get(str(group), TableSpec) if key else TableSpec
        raise UserError(f"{path}: {explain(error, list(part.model_fields))}") from None


def published(name: str) -> Published:
    """A group of published numbers; raises UserError for an unknown one."""
    groups = load(PUBLISHED, "published numbers")
    if name not in groups:
        raise UserError(f"published: {name}: no such group in {PUBLISHED.name}; {nearest(name, list(groups))}")
    return Published.model_validate(groups[name])
