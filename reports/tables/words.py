"""The sentences around a table: its caption, and notes on what was chosen and what is missing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from reports import spelling
from reports.metrics import Metric
from reports.tables import fill, spec
from reports.tables.model import FINISHED, STATES, UNDEFINED, Cell, Column, Row, Table, Values
from reports.tables.spec import TableSpec

MOST_LABELS = 12  # Rows that one note names.


@dataclass(frozen=True)
class Subject:
    """What a table is about, beside its specification: `about` is the first sentence of the caption, `facts` are what
    else caption.txt.j2 makes sentences of. `seeds` were asked for; where that is not known, each column has those of
    its fullest cell. `notes` follow the others; `origin` says what the numbers were made with."""

    name: str
    title: str
    about: str
    seeds: tuple[int, ...] = ()
    dataset: str = ""
    slug: str = ""
    notes: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def caption(
    table: TableSpec, subject: Subject, shown: Mapping[str, Metric], n: int, cells: Sequence[Cell]
) -> tuple[str, ...]:
    """The sentences above a table over n seeds, one for each line of caption.txt.j2."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True
    )
    published = [cell for cell in cells if cell.published is not None]
    facts = {
        "measured": "of the test split after the last epoch",
        "has_labels": True,
        **subject.facts,
        "about": subject.about.replace("\n", " ").strip().rstrip("."),
        "seeds": f" ({spelling.ranges(subject.seeds)})" if subject.seeds else "",
        "n": n,
        "n_asked": len(subject.seeds),
        "single": [metric.heading for metric in shown.values() if not metric.spread],
        "select": table.select,
        "chosen": ", ".join(dict.fromkeys(spelling.headings(table.select.over))) if table.select else "",
        "study": table.study,
        "kinds": {name.partition("/")[0] for name in table.shown},
        "baselines": table.baselines,
        "shown": shown,
        "published": published,
        "group": spec.published(table.published) if table.published else None,
        "all_comparable": all(cell.comparable or not cell.sources for cell in published),
    }
    return tuple(templates.get_template("caption.txt.j2").render(facts).strip("\n").split("\n"))


def notes(table: Table, reasons: Mapping[str, str], values: Values) -> Iterator[str]:
    """What is chosen and what is missing, each once; `reasons` maps keys of trials to why they have no result."""
    cells = [cell for row in table.all_rows for cell in row.cells if cell.metric]
    if any(cell.n for cell in cells) or any(row.n for row in table.all_rows):
        same = {cell.expected for cell in cells} == {table.n}
        yield f"(n=k): a mean over k seeds{f' instead of {table.n}' if same else ', fewer than its column has'}."
    if any(cell.mean == UNDEFINED for cell in cells):
        yield f"A dash ({UNDEFINED}): not defined for this row, or not finite."
    if any(cell.collapsed for cell in cells):
        yield (
            "In parentheses: trials that were stopped on a collapse before their last epoch, measured as they stood; "
            "they enter no mean and no comparison."
        )
    if any(cell.mean == STATES["MISSING"] and not cell.sources for cell in cells):
        yield "missing: no trial has been run there."
    yield from _choices(table)
    gaps: dict[tuple[str, str], list[str]] = {}
    for where, reason, seeds in (*_absent(table, reasons), *_infinite(table, values)):
        gaps.setdefault((reason, spelling.seeds(seeds)), []).append(where)
    for (reason, which_seeds), places in gaps.items():
        yield f"{_listed(places, table.headings)}: {which_seeds} {reason}."


def _choices(table: Table) -> Iterator[str]:
    made: dict[str, list[str]] = {}
    for choice in table.choices:
        what = ", ".join(spelling.headings(choice.over.split(", ")))
        if choice.chosen is None:
            yield f"{choice.where}: no choice of {what}, {choice.barred or f'as no run has {choice.criterion}'}."
        else:
            among = sum(each.score is not None for each in choice.candidates)
            how = f"{what} chosen by {choice.criterion} among {among} setting{'s' if among > 1 else ''}"
            made.setdefault(how, []).append(f"{choice.where}: {choice.chosen}")
        if choice.tied:
            yield f"{choice.where}: {what} = {', '.join(choice.tied)} would do as well by {choice.criterion}."
    for how, cells in made.items():
        yield f"{how}: {'; '.join(cells)}."


def _absent(table: Table, reasons: Mapping[str, str]) -> Iterator[tuple[str, str, list[int]]]:
    """Where trials have no result, in which state they are and why, and their seeds; a trial that stands in several
    cells is named at the first."""
    named: set[str] = set()
    for row, column, cell in table.cells():
        states: dict[str, list[int]] = {}
        for source in cell.sources:
            if source.status != FINISHED and source.key not in named:
                named.add(source.key)
                reason = f" ({reasons[source.key]})" if reasons.get(source.key) else ""
                states.setdefault(STATES[source.status] + reason, []).append(source.seed)
        yield from ((_where(row, column), state, seeds) for state, seeds in states.items())


def _infinite(table: Table, values: Values) -> Iterator[tuple[str, str, list[int]]]:
    """Where a mean leaves out finished trials, since their value is not finite."""
    for place, column in enumerate(table.columns):
        for row in table.all_rows:
            cell = row.cells[place]
            finite = fill.finite_values(cell.sources, cell.metric, values)
            seeds = [source.seed for source in cell.sources if source.status == FINISHED and source.seed not in finite]
            if finite and seeds:
                yield _where(row, column), f"no finite {table.metrics[cell.metric].heading}", seeds


def _where(row: Row, column: Column) -> str:
    return row.label if row.sources else f"{row.label}, {column.heading}"


def _listed(labels: Sequence[str], headings: Sequence[str]) -> str:
    """`β = 0.1, 1` where the labels are values under the only heading, else one label after the other."""
    shown, prefix = labels[:MOST_LABELS], f"{headings[0]} = "
    if len(headings) == 1 and all(label.startswith(prefix) and ", " not in label for label in labels):
        text = prefix + ", ".join(label.removeprefix(prefix) for label in shown)
    else:
        text = "; ".join(shown)
    return text + (f" and {len(labels) - len(shown)} more rows" if len(labels) > len(shown) else "")
