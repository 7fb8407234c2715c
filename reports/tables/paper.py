"""Tables over several data sets, methods and sweeps, as a specification lays them out: rows and columns by settings."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from reports import metrics
from reports.metrics import Metric
from reports.render import text
from reports.tables import fill, spec
from reports.tables.model import FINISHED, STATES, UNDEFINED, Candidate, Cell, Choice, Column, Row, Source, Table
from reports.tables.spec import METRIC, Dimension, TableSpec, Where
from sweeps.errors import UserError

Settings = Mapping[str, Any]
SHOWN_AS = {
    "barlow_twins": "Barlow Twins",
    "cplearn": "CPLearn",
    "dino": "DINO",
    "gedi": "GEDI",
    "self_classifier": "Self-Classifier",
    "simclr": "SimCLR",
    "supervised": "Supervised",
    "swav": "SwAV",
    "untrained": "untrained",
    "vicreg": "VICReg",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "digits": "Digits",
    "imagenet100": "ImageNet-100",
    "stl10": "STL-10",
    "svhn": "SVHN",
    "tiny-imagenet": "Tiny ImageNet",
}


@dataclass(frozen=True)
class Trial:
    """A trial with its settings as values."""

    source: Source
    settings: Settings
    error: str | None


@dataclass(frozen=True)
class Coordinate:
    """A place along a dimension: `value` orders and tells apart, `text` is printed, `settings` define it."""

    value: Hashable
    text: str
    settings: Mapping[str, Any] = field(compare=False)


def make_table(trials: pd.DataFrame, table: TableSpec, where: Where | None = None) -> Table:
    """The table of a specification from trials (`store.read_trials`); `where` narrows it further.

    A cell holds the trials that agree in everything but the seed. Numbers come from finished ones only.

    Raises UserError if no finished trial matches, and if the trials of a cell differ in a setting that no row or
    column tells, since a mean over different settings would mean nothing.
    """
    wanted: Where = {**table.where, **(where or {})}
    known = _trials(trials)
    matching = [trial for trial in known if _matches(trial.settings, wanted)]
    rows, columns = ([one for one in dims if one.key != METRIC] for dims in (table.rows, table.columns))
    placed: dict[tuple[tuple[Coordinate, ...], tuple[Coordinate, ...]], list[Trial]] = {}
    for trial in matching:
        for place in itertools.product(_places(rows, trial), _places(columns, trial)):
            placed.setdefault(place, []).append(trial)
    if not any(trial.source.status == FINISHED for found in placed.values() for trial in found):
        asked = ", ".join(f"{key}={value}" for key, value in wanted.items())
        raise UserError(
            f"table {table.table!r}: none of the {len(known)} trials found has finished and matches its rows"
            + (f" and {asked}" if asked else "")
        )
    order = [_order([one[side] for one in placed], dims) for side, dims in ((0, rows), (1, columns))]
    choices: dict[Any, Choice] = {}
    values = _values(trials, [*table.shown, *([table.select.by] if table.select else [])])
    for place, found in placed.items():
        if table.select and (choice := _choice(found, table.select, _label(place))):
            choices[place] = fill.choose(choice, values)
            placed[place] = [
                one for one in found if text.values([one.settings.get(table.select.over)])[0] == choices[place].chosen
            ]
        _agree(table, _label(place), placed[place], wanted)
    laid = _Layout(table, rows, columns, order[0], order[1], placed, choices)
    filled = fill.fill(laid.table(values), values)
    # In the block of a metric that is not defined for a row, pixels have no codes, the row says nothing.
    telling = tuple(row for row in filled.rows if not (row.block and _is_undefined(row)))
    filled = dataclasses.replace(filled, rows=telling)
    return dataclasses.replace(filled, notes=tuple(_notes(filled, {t.source.key: t.error for t in matching}, known)))


def parse(item: str | float | None) -> Any:
    """A setting from the text of a param: a number, true, false or null, else the words."""
    if not isinstance(item, str):
        return None
    try:
        return json.loads(item)
    except ValueError:
        return item


@dataclass(frozen=True)
class _Layout:
    """Puts cells where rows and columns cross; `placed` and `choices` are by pair of row and column place."""

    spec: TableSpec
    row_dims: Sequence[Dimension]
    column_dims: Sequence[Dimension]
    row_places: Sequence[tuple[Coordinate, ...]]
    column_places: Sequence[tuple[Coordinate, ...]]
    placed: Mapping[Any, Sequence[Trial]]
    choices: Mapping[Any, Choice]

    def table(self, values: fill.Values) -> Table:
        """The table without its numbers. Metrics that no run has are left out."""
        logged = {name for run in values.values() for name, value in run.items() if math.isfinite(value)}
        shown = {name: metric for name, metric in self.spec.shown.items() if name in logged}
        if not shown:
            raise UserError(f"table {self.spec.table!r}: no run has any of its metrics, {', '.join(self.spec.shown)}")
        in_rows = self.spec.rows[0].key == METRIC
        blocks: list[Metric | None] = [*shown.values()] if in_rows else [None]
        heads = self._columns(shown, in_rows)
        rows = [
            self._row(block, place, [(at, metric) for at, metric, _ in heads])
            for block in blocks
            for place in self.row_places
        ]
        is_first = {id(row): row.head[0] in self.spec.baselines for row in rows}
        n = max(cell.expected for row in rows for cell in row.cells)
        published = [cell for row in rows for cell in row.cells if cell.published is not None]
        return Table(
            sweep=self.spec.table,
            dataset="",
            slug="",
            n=n,
            title=f"Table {self.spec.table}",
            headings=tuple(one.title for one in self.row_dims) or ("",),
            columns=tuple(column for _, _, column in heads),
            # With blocks the baselines stand in theirs.
            baselines=tuple(row for row in rows if is_first[id(row)]) if not in_rows else (),
            rows=tuple(row for row in rows if in_rows or not is_first[id(row)]),
            caption=tuple(
                self._caption(shown, n, bool(published), any(one.sources and not one.comparable for one in published))
            ),
            notes=(),
            origin=(),
            metrics=shown,
            spec=self.spec.hash,
            choices=tuple(self.choices.values()),
        )

    def _columns(
        self, shown: Mapping[str, Metric], in_rows: bool
    ) -> list[tuple[tuple[Coordinate, ...], Metric | None, Column]]:
        """Each column with its place among the column dimensions, its metric if columns have one, and its heading."""
        heads: list[tuple[tuple[Coordinate, ...], Metric | None, Column]] = []
        for place in self.column_places:
            texts = [
                one.text if dim.cases or dim.key == "dataset" else f"{dim.title} = {one.text}"
                for dim, one in zip(self.column_dims, place, strict=True)
            ]
            if in_rows:
                short = place[-1].text if self.column_dims[-1].key != "dataset" else ""
                groups = tuple(texts[:-1]) + ((texts[-1],) if not short else (self.column_dims[-1].title,))
                heads.append((place, None, Column(", ".join(texts), ", ".join(texts), groups, short)))
                continue
            for metric in shown.values():
                heading = ", ".join([*texts, metric.heading])
                heads.append((place, metric, Column(metric.name, heading, (*texts, metric.group), metric.short)))
        return heads

    def _row(
        self,
        block: Metric | None,
        place: tuple[Coordinate, ...],
        columns: Sequence[tuple[tuple[Coordinate, ...], Metric | None]],
    ) -> Row:
        names = [one.text for one in place] or [block.heading if block else ""]
        competes = not any(name in self.spec.baselines for name in names)
        data = [one.text for dim, one in zip(self.row_dims, place, strict=True) if dim.key == "dataset"]
        cells = []
        for at, own in columns:
            metric = own or block
            assert metric is not None
            found = self.placed.get((place, at), ())
            contest = "; ".join([metric.name, *(one.text for one in at), *data])
            if not found and not self._applies(place, at):
                cells.append(Cell())
                continue
            settings = {
                **{key: value for key, value in self.spec.where.items() if not isinstance(value, list)},
                **{key: value for one in (*place, *at) for key, value in one.settings.items()},
            }
            group = spec.published(self.spec.published) if self.spec.published else None
            cells.append(
                Cell(
                    metric.name,
                    tuple(sorted((trial.source for trial in found), key=lambda source: source.seed)),
                    contest if competes else None,
                    expected=self._seeds(at),
                    published=group.find(settings, metric.name) if group else None,
                    comparable=group is None or all(_matches(trial.settings, group.setting) for trial in found),
                    mean="no choice" if self._undecided(place, at) else "",
                )
            )
        shared = tuple(cells[0].sources) if cells and all(cell.sources == cells[0].sources for cell in cells) else ()
        label = ", ".join(
            one.text if dim.cases or dim.key in SHORT else f"{dim.title} = {one.text}"
            for dim, one in zip(self.row_dims, place, strict=True)
        )
        return Row(tuple(names), label or names[0], None, tuple(cells), shared, block.heading if block else "")

    def _undecided(self, place: Any, at: Any) -> bool:
        choice = self.choices.get((place, at))
        return choice is not None and choice.chosen is None

    def _seeds(self, at: tuple[Coordinate, ...]) -> int:
        """The seeds of a column: those of its cell with the most trials."""
        return max((len(found) for (_, column), found in self.placed.items() if column == at), default=0)

    def _applies(self, place: tuple[Coordinate, ...], at: tuple[Coordinate, ...]) -> bool:
        """Whether a cell without trials could have one: a method without a dictionary has no dictionary's size."""
        others = [column for (row, column), found in self.placed.items() if row == place and found]
        for position, one in enumerate(at):
            if others and all((column[position].value is None) != (one.value is None) for column in others):
                return False
        return True

    def _caption(
        self, shown: Mapping[str, Metric], n: int, any_published: bool, any_incomparable: bool
    ) -> Iterator[str]:
        yield f"{self.spec.title.rstrip('.')}."
        yield f"Mean ± sample standard deviation over n = {n} seeds." if n > 1 else "One seed, n = 1."
        if single := [metric.heading for metric in shown.values() if not metric.spread and n > 1]:
            yield f"Without spread: {', '.join(single)}."
        yield "All metrics are those of the test split after the last epoch."
        if self.spec.select:
            what = metrics.headings([self.spec.select.over])[0]
            best = {"higher": "highest mean", "lower": "lowest mean", "nearest 1": "mean nearest to 1 of"}
            yield (
                f"{what} was chosen for each cell by the {best[self.spec.select.better]} {self.spec.select.by} over "
                "seeds, which never sees the test split."
            )
        else:
            yield "No model was selected by them."
        if any(name == "codes/nmi" for name in shown):
            yield "NMI of the codes is not ranked, as it rises by chance alone with the number of codes used."
        if self.spec.baselines:
            yield f"Not compared with the rest: {', '.join(self.spec.baselines)}."
        if self.spec.published and any_published:
            group = spec.published(self.spec.published)
            told = ", ".join(f"{key} = {value}" for key, value in group.setting.items())
            compared = f", for runs with {told}" if any_incomparable else ""
            yield f"Published: {group.source}; in brackets ours minus the published{compared}. {group.caveat}"


SHORT = {"method.name", "dataset"}
"""Dimensions whose values speak for themselves."""


def _trials(frame: pd.DataFrame) -> list[Trial]:
    """The trials of a frame that can be placed, in its order; those without any setting cannot."""
    params = [name for name in map(str, frame.columns) if name.startswith("params.")]
    columns = ["seed", "key", "run_id", "status", "dataset", "fingerprint", "error", *params]
    parsed: dict[Any, Any] = {}
    found = []
    frame = frame.reindex(columns=[*columns, "tags.numerics"])
    for seed, key, run_id, status, dataset, fingerprint, error, *rest in frame.to_numpy(dtype=object).tolist():
        *texts, numerics = rest
        settings: dict[str, Any] = {}
        for name, words in zip(params, texts, strict=True):
            if isinstance(words, str):
                if words not in parsed:
                    parsed[words] = parse(words)
                settings[name.removeprefix("params.")] = parsed[words]
        if not settings:
            continue
        settings |= {"dataset": dataset, "data fingerprint": fingerprint, "numerics": numerics}
        source = Source(int(seed), key, run_id if isinstance(run_id, str) else None, status)
        found.append(Trial(source, settings, error if isinstance(error, str) else None))
    return found


def _matches(settings: Settings, where: Mapping[str, Any]) -> bool:
    return all(settings.get(key) in (value if isinstance(value, list) else [value]) for key, value in where.items())


def _places(dims: Sequence[Dimension], trial: Trial) -> Iterator[tuple[Coordinate, ...]]:
    """Where a trial stands along dimensions; nowhere if it is none of the cases."""
    along: list[list[Coordinate]] = []
    for dim in dims:
        if dim.cases:
            along.append(
                [
                    Coordinate(name, name, {key: value for key, value in where.items() if not isinstance(value, list)})
                    for name, where in dim.cases.items()
                    if _matches(trial.settings, where)
                ]
            )
        else:
            assert dim.key is not None
            along.append([_coordinate(dim, trial.settings.get(dim.key))])
    return itertools.product(*along)


def _coordinate(dim: Dimension, value: Any) -> Coordinate:
    assert dim.key is not None
    words = str(value) if not isinstance(value, str) else value
    usual = SHOWN_AS.get(words) if dim.key in SHORT and isinstance(value, str) else None
    plain = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else text.values([value])[0]
    if dim.key == "dataset":
        plain = plain.removeprefix("folder-")
    shown = dim.names.get(words) or usual or plain
    return Coordinate(value if isinstance(value, Hashable) else words, shown, {dim.key: value})


def _order(places: Sequence[tuple[Coordinate, ...]], dims: Sequence[Dimension]) -> list[tuple[Coordinate, ...]]:
    """Distinct places: cases and named values as the specification lists them, numbers by size, then words."""

    def rank(place: tuple[Coordinate, ...]) -> list[tuple[Any, ...]]:
        ranks: list[tuple[Any, ...]] = []
        for dim, one in zip(dims, place, strict=True):
            listed = [*(dim.cases or dim.names)]
            if str(one.value) in listed:
                ranks.append((1, listed.index(str(one.value)), ""))
            elif isinstance(one.value, int | float):
                ranks.append((2, one.value, ""))
            else:
                ranks.append((0 if one.value is None else 3, 0, str(one.value)))
        return ranks

    return sorted(dict.fromkeys(places), key=rank)


def _values(trials: pd.DataFrame, names: Sequence[str]) -> dict[str, dict[str, float]]:
    finished = trials[trials["status"] == FINISHED]
    records = finished.reindex(columns=list(names)).astype(float).to_dict("records")
    return dict(zip(finished["run_id"], records, strict=True))


def _label(place: tuple[Sequence[Coordinate], Sequence[Coordinate]]) -> str:
    return ", ".join(one.text for side in place for one in side)


def _is_undefined(row: Row) -> bool:
    return {cell.mean for cell in row.cells if cell.metric} <= {UNDEFINED}


def _choice(found: Sequence[Trial], select: spec.Selection, where: str) -> Choice | None:
    """The choice to be made among the trials of a cell; None where they agree."""
    groups: dict[str, list[Source]] = {}
    order = {}
    for trial in found:
        value = trial.settings.get(select.over)
        spelled = text.values([value])[0]
        order[spelled] = value
        groups.setdefault(spelled, []).append(trial.source)
    if len(groups) < 2:
        return None
    ranked = sorted(groups, key=lambda one: (not isinstance(order[one], int | float), order[one], one))
    candidates = tuple(Candidate(one, tuple(sorted(groups[one], key=lambda source: source.seed))) for one in ranked)
    barred = ""
    if select.by.startswith("validation/") and any(one.settings.get("method.name") == "supervised" for one in found):
        barred = "since a supervised backbone was trained on the labels of the validation split"
    return Choice(where, select.over, select.by, select.better, candidates, None, barred)


def _agree(table: TableSpec, where: str, found: Sequence[Trial], wanted: Where) -> None:
    """Raise UserError if trials of one cell differ in more than the seed. A setting that one of them lacks is younger
    than that trial, which then has its default."""
    differing: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for trial in found for key in trial.settings):
        spelled = {json.dumps(trial.settings[key], sort_keys=True) for trial in found if key in trial.settings}
        if len(spelled) > 1 and key != "seed":
            differing[key] = sorted(spelled)
    if differing:
        key, values = next(iter(differing.items()))
        others = len(differing) - 1
        further = f" and {others} more setting{'s' if others > 1 else ''}" if others else ""
        results = [trial for trial in found if trial.source.status == FINISHED and key in trial.settings]
        one = json.dumps(results[-1].settings[key], sort_keys=True) if results else values[-1]
        raise UserError(
            f"table {table.table!r}: {where} has trials that differ in {key} ({', '.join(values)}){further}; say which "
            f"count, for instance --where {key}={one} or --sweep NAME"
        )


def _notes(table: Table, errors: Mapping[str, str | None], known: Sequence[Trial]) -> Iterator[str]:
    """What is chosen and what is missing, each once."""
    cells = [
        (row, column, cell) for row in table.all_rows for column, cell in zip(table.columns, row.cells, strict=True)
    ]
    if any(cell.n for _, _, cell in cells) or any(row.n for row in table.all_rows):
        yield "(n=k): a mean over k seeds, fewer than its column has."
    if any(cell.mean == UNDEFINED for _, _, cell in cells):
        yield f"A dash ({UNDEFINED}): not defined for this row, or not finite."
    if any(cell.mean == STATES["MISSING"] and not cell.sources for _, _, cell in cells):
        yield "missing: no trial has been run there."
    for choice in table.choices:
        what = metrics.headings([choice.over])[0]
        if choice.chosen is None:
            yield f"{choice.where}: no choice of {what}, {choice.barred or f'as no run has {choice.criterion}'}."
        if choice.tied:
            yield f"{choice.where}: {what} = {', '.join(choice.tied)} would do as well by {choice.criterion}."
    for (over, criterion), made in itertools.groupby(table.choices, lambda one: (one.over, one.criterion)):
        told = "; ".join(f"{choice.where}: {choice.chosen}" for choice in made if choice.chosen is not None)
        if told:
            yield f"{metrics.headings([over])[0]} chosen by {criterion}: {told}."
    gaps: dict[str, str] = {}
    for row, column, cell in cells:
        for source in cell.sources:
            if source.status != FINISHED:
                lines = (errors.get(source.key) or "").strip().splitlines()
                reason = f"{STATES[source.status]}" + (f" ({lines[-1].strip().rstrip('.')[:100]})" if lines else "")
                label = ", ".join(filter(None, [row.label, column.heading if not row.sources else ""]))
                # A trial stands in a cell of each metric; it is named at the first.
                gaps.setdefault(source.key, f"{label}: seed {source.seed} {reason}.")
    yield from gaps.values()
