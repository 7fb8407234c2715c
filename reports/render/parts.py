"""What all formats of a table share: templates, headings over columns, numbers in words, and the runs behind them."""

import itertools
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from reports import spelling
from reports.tables.model import Cell, Row, Source, Table

TEMPLATES = Path(__file__).with_name("templates")


def environment(autoescape: bool = False, **delimiters: Any) -> jinja2.Environment:
    """The templates. Those of HTML escape by themselves, those of other formats by a filter; none lets control
    characters through."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=autoescape,
        finalize=lambda value: spelling.printable(value) if type(value) is str else value,
        **delimiters,
    )
    templates.filters.update(published=published)
    templates.globals.update(has_published=has_published)
    return templates


def has_published(row: Row) -> bool:
    """Whether a published number stands beside one of the row's."""
    return any(cell.published is not None for cell in row.cells)


def published(cell: Cell, table: Table) -> str:
    """A published number, with ours minus it in brackets."""
    if cell.published is None:
        return ""
    text = spelling.number(cell.published, table.metrics[cell.metric])
    return text + (f" ({cell.difference})" if cell.difference else "")


def described(cell: Cell, table: Table) -> str:
    """A number in words: mean, spread, interval and number of seeds; empty where there is no number."""
    if cell.number is None:
        return ""
    metric, number = table.metrics[cell.metric], cell.number
    text = f"{cell.mean} ± {spelling.number(number.std, metric)}" if number.std is not None else cell.mean
    if number.low is not None and number.high is not None:
        low, high = spelling.number(number.low, metric), spelling.number(number.high, metric)
        text += f", 95 % interval {low} to {high} ({number.method})"
    return f"{text}, n = {number.n}"


def levels(table: Table) -> Iterator[list[tuple[str, list[int]]]]:
    """The headings above the columns, from the top: each with the columns it spans. Neighbours share a heading if they
    share those above it."""
    for level in range(max((len(column.groups) for column in table.columns), default=0)):
        names = [column.groups[: level + 1] for column in table.columns]
        spans = itertools.groupby(enumerate(names), key=operator.itemgetter(1))
        yield [(name[level], [place for place, _ in members]) for name, members in spans]


@dataclass(frozen=True)
class RunGroup:
    """Trials and the cells that they are behind: `places` are rows and columns, `label` is what these have in common,
    and `numbers` says the cells in words; it is empty where the trials are behind a whole row."""

    label: str
    places: tuple[tuple[int, int], ...]
    numbers: str
    sources: tuple[Source, ...]


def run_groups(table: Table) -> list[RunGroup]:
    """The runs behind the numbers: row by row, or where a row's cells have different trials, together all cells of the
    table that share theirs."""
    groups = []
    shared: dict[tuple[Source, ...], list[tuple[int, int]]] = {}
    for place, row in enumerate(table.all_rows):
        if row.sources:
            cells = tuple((place, column) for column in range(len(row.cells)))
            groups.append(RunGroup(_joined([row.block, row.label]), cells, "", row.sources))
            continue
        for column, cell in enumerate(row.cells):
            if cell.sources:
                shared.setdefault(cell.sources, []).append((place, column))
    return groups + [_group_of_cells(table, places, sources) for sources, places in shared.items()]


def _group_of_cells(table: Table, places: list[tuple[int, int]], sources: tuple[Source, ...]) -> RunGroup:
    names = [_name_parts(table, *place) for place in places]
    is_common = [len(set(parts)) == 1 for parts in zip(*names, strict=True)]
    numbers = []
    for name, (row, column) in zip(names, places, strict=True):
        if text := described(table.all_rows[row].cells[column], table):
            apart = _joined(part for part, common in zip(name, is_common, strict=True) if not common)
            numbers.append(f"{apart} {text}".strip())
    return RunGroup(_joined(itertools.compress(names[0], is_common)), tuple(places), "; ".join(numbers), sources)


def _name_parts(table: Table, place: int, column: int) -> tuple[str, ...]:
    """The parts that name a cell: block and label of its row, headings of its column from the top."""
    row, heading = table.all_rows[place], table.columns[column]
    upper, lowest = [], heading.heading
    for group in heading.groups:
        # Short forms, "Accuracy" above "Linear" say, are not part of the heading in full.
        upper.append(group if lowest.startswith(f"{group}, ") else "")
        lowest = lowest.removeprefix(f"{group}, ")
    return row.block, row.label, *upper, lowest


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(filter(None, parts))
