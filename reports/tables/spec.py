"""Table specifications: what stands in rows and columns, as YAML files beside this module or of the user's own."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from reports import metrics
from reports.metrics import Metric
from reports.tables.model import Preference
from sweeps.errors import UserError

FOLDER = Path(__file__).parent
PUBLISHED = Path(__file__).parent.parent / "published.yaml"
METRIC = "metric"
AXES = "axes"
UNSEEN = ("validation/", "select/", "train/")
"""Groups of metrics that never look at the test split."""

Scalar = bool | int | float | str | None
Where = dict[str, Scalar | list[Scalar]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Strict = TypeVar("Strict", bound=_Strict)


class Shown(_Strict):
    """A metric of a table, with what is to be shown otherwise than usual."""

    name: str = Field(pattern=r"^[^/\s]+(/[^/\s]+)+$", description="As logged, probe/accuracy for instance.")
    heading: str | None = Field(None, description="How it is called.")
    short: str | None = Field(None, description="How it is called in LaTeX under a heading of several columns.")
    decimals: int | None = Field(None, ge=0, le=6, description="Digits after the point.")
    percent: bool = Field(False, description="Whether to multiply by 100.")
    spread: bool | None = Field(None, description="Whether to show the standard deviation.")
    better: Literal["higher", "lower", "neither"] | None = Field(None, description="Which direction is ranked.")

    @model_validator(mode="after")
    def _known(self) -> Shown:
        if self.name not in metrics.METRICS and self.heading is None:
            near = difflib.get_close_matches(self.name, metrics.METRICS, 1)
            hint = f"did you mean {near[0]!r}? Else" if near else "to show it,"
            raise ValueError(f"metric {self.name!r} is not known; {hint} give it a heading")
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


class Dimension(_Strict):
    """What the rows or columns differ in: a setting under its dotted name (or `dataset`, `metric`), or named cases."""

    key: str | None = Field(None, description="A setting: its values make the rows, in order.")
    cases: dict[str, Where] | None = Field(None, min_length=1, description="Name to the settings that make it.")
    heading: str | None = Field(None, description="Default: the paper's symbol or the last part of the key.")
    names: dict[str, str] = Field(default_factory=dict, description="Value to how it is printed.")

    @model_validator(mode="after")
    def _one(self) -> Dimension:
        if (self.key is None) == (self.cases is None):
            raise ValueError("give either key or cases")
        return self

    @property
    def title(self) -> str:
        return self.heading or (metrics.headings([self.key])[0] if self.key else "")


class Selection(_Strict):
    """A setting whose value is chosen for each cell, by a criterion that never sees the test split."""

    over: str = Field(description="The setting, method.beta for instance.")
    by: str = Field(description="A metric under validation/, select/ or train/.")
    better: Preference = Field("higher", description="Which mean wins.")

    @model_validator(mode="after")
    def _honest(self) -> Selection:
        if not self.by.startswith(UNSEEN):
            raise ValueError(
                f"{self.by!r} is measured on the test split, so choosing by it would flatter the table; choose by "
                "validation/..., select/... or train/..."
            )
        is_loss = self.by.startswith("train/") and not self.by.startswith("train/online_")
        if is_loss and not self.over.startswith("optimizer."):
            raise ValueError(
                f"{self.by!r} means another thing at each {self.over}, so its values do not compare; choose by "
                "validation/... or select/..."
            )
        if self.by.endswith("loss") and self.better != "lower":
            raise ValueError(f"{self.by!r} is best where it is lowest; write better: lower")
        if self.by.endswith("/alpha_req") and self.better != "nearest 1":
            raise ValueError(f"{self.by!r} is best where it is nearest to 1; write better: nearest 1")
        return self


def _named(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


def _keyed(value: object) -> object:
    return {"key": value} if isinstance(value, str) else value


class TableSpec(_Strict):
    """The content of a table specification."""

    table: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Name; goes to results/tables/<name>/.")
    title: str = Field(description="A sentence for the caption.")
    where: Where = Field(default_factory=dict, description="Only runs with these settings; a list: any of them.")
    rows: list[Annotated[Dimension, BeforeValidator(_keyed)]] = Field(min_length=1, description="Outermost first.")
    columns: list[Annotated[Dimension, BeforeValidator(_keyed)]] = Field(min_length=1, description="Outermost first.")
    metrics: list[Annotated[Shown, BeforeValidator(_named)]] = Field(min_length=1, description="In order.")
    essential: list[list[str]] = Field(
        default_factory=list, description="Metrics that stay where space is scarce, in groups that stay or go together."
    )
    baselines: list[str] = Field(default_factory=list, description="Rows that stand first and do not compete.")
    select: Selection | None = Field(None, description="A setting to choose instead of showing all of its values.")
    published: str | None = Field(None, description="A group of published numbers to stand beside ours.")

    @model_validator(mode="after")
    def _consistent(self) -> TableSpec:
        keys = [one.key for one in (*self.rows, *self.columns) if one.key]
        if self.per_sweep:
            if len(self.rows) > 1 or [one.key for one in self.columns] != [METRIC] or self.select or self.published:
                raise ValueError("rows: [axes] goes with columns: [metric] alone, without select or published")
            return self
        if keys.count(METRIC) != 1:
            raise ValueError("metric must stand once, in rows or in columns")
        if METRIC in [one.key for one in self.rows[1:]]:
            raise ValueError("metric must be the first of the rows")
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ValueError(f"{twice} stands twice in rows and columns")
        if self.select and self.select.over in keys:
            raise ValueError(f"{self.select.over} is chosen, so it cannot be in rows or columns too")
        names = {name for one in self.rows for name in one.cases or {}}
        if unknown := next((name for name in self.baselines if name not in names), None):
            raise ValueError(f"baselines: no case is called {unknown!r}")
        return self

    @property
    def per_sweep(self) -> bool:
        """Whether its rows are the points of one sweep, on one data set."""
        return AXES in [one.key for one in self.rows]

    @cached_property
    def shown(self) -> dict[str, Metric]:
        return {one.name: one.metric for one in self.metrics}

    @cached_property
    def hash(self) -> str:
        """Sixteen hexadecimal digits of the content."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


class Published(_Strict):
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
            value = entry.get(metric)
            if isinstance(value, int | float) and all(
                settings.get(key) == one for key, one in entry.items() if "/" not in key
            ):
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
        raise UserError(f"no table {name!r}; {_nearest(name, names())}, or a path to a YAML file of your own")
    return _validate(TableSpec, path, _load(path))


def published(name: str) -> Published:
    """A group of published numbers; raises UserError for an unknown one."""
    known = _load(PUBLISHED)
    if name not in known:
        raise UserError(f"published: {name}: no such group in {PUBLISHED.name}; {_nearest(name, list(known))}")
    return _validate(Published, PUBLISHED, known[name])


def _load(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}: not valid YAML{where}: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: must be a group of keys (table, rows, columns, ...)")
    return document


def _validate(kind: type[Strict], path: Path, content: Any) -> Strict:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            owner = _owner(kind, first["loc"])
            raise UserError(f"{path}: unknown key {key!r}; {_nearest(str(first['loc'][-1]), owner)}") from None
        message = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
        raise UserError(f"{path}: {key + ': ' if key else ''}{message}") from None


def _owner(kind: type[_Strict], location: Sequence[int | str]) -> list[str]:
    """The keys known where an unknown one stands."""
    inner: dict[str, type[_Strict]] = {"rows": Dimension, "columns": Dimension, "metrics": Shown, "select": Selection}
    return list((inner.get(str(location[0]), kind) if len(location) > 1 else kind).model_fields)


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, 1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
