"""A table as markdown, LaTeX, HTML, CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from reports.metrics import Metric
from reports.render import text
from reports.statistics.inference import Number
from reports.tables.fill import spell
from reports.tables.model import FINISHED, Candidate, Cell, Choice, Column, Row, Source, Table

TEMPLATES = Path(__file__).with_name("templates")
FORMAT = 1
"""Version of the JSON."""


def to_markdown(table: Table) -> str:
    """GitHub-flavoured markdown, with caption, notes and the runs behind the numbers."""
    environment = _environment()
    environment.filters.update(md=text.markdown, cell=_markdown_cell, published=_published)
    return environment.get_template("table.md.j2").render(
        table=table,
        behind=list(_behind(table)),
        source=lambda source: _markdown_source(source, table),
    )


def to_latex(table: Table) -> str:
    """A LaTeX float as wide as the page, a document of its own or for use with input; the runs are in comments.

    It needs the packages booktabs and siunitx. With one axis it fits a text width of 6.75 inches (ICML).
    """
    environment = _environment(
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    environment.filters.update(tex=text.latex, symbol=text.latex_symbol, comment=lambda words: " ".join(words.split()))
    columns = [
        _LatexColumn.of([row.cells[place] for row in table.all_rows], table) for place in range(len(table.columns))
    ]
    dense = len(table.columns) > 11 or len(table.headings) > 1
    return environment.get_template("table.tex.j2").render(
        table=table,
        layout="".join("l" * len(table.headings)) + "".join(column.layout for column in columns),
        header=list(_latex_header(table, columns)),
        width=len(table.headings) + sum(column.width for column in columns),
        head=lambda row: _latex_head(row, len(table.headings)),
        cells=lambda row: [column.cell(cell) for column, cell in zip(columns, row.cells, strict=True)],
        published=lambda row: [column.published(cell, table) for column, cell in zip(columns, row.cells, strict=True)],
        has_published=_has_published,
        behind=list(_behind(table)),
        size=r"\scriptsize" if dense and table.n > 1 else r"\footnotesize",
        anchor=re.sub(r"[^A-Za-z0-9]+", "-", f"{table.sweep}-{table.slug}").strip("-"),
        blocks=any(row.block for row in table.all_rows),
    )


def to_html(table: Table) -> str:
    """A page of its own without scripts, light or dark as the reader prefers; each number leads to its runs."""
    behind = list(_behind(table))
    anchors = {place: number for number, one in enumerate(behind) for place in one.places}
    return _html(
        "table.html.j2",
        table,
        behind=behind,
        anchor=lambda row, column: anchors.get((row, column)),
        caption=" ".join(table.caption + table.statistics),
    )


def to_html_rows(table: Table) -> Markup:
    """The HTML table alone, for a page that has its caption and its runs elsewhere."""
    return Markup(_html("rows.html.j2", table, anchor=None, caption=""))


def _html(template: str, table: Table, **given: Any) -> str:
    environment = _environment(autoescape=True)
    environment.filters.update(published=_published)
    return environment.get_template(template).render(
        table=table,
        levels=[[(name, len(places)) for name, places in level] for level in _levels(table)],
        tip=lambda cell: described(cell, table) if not cell.empty else "",
        has_published=_has_published,
        **given,
    )


CSV_COLUMNS = (
    *("block", "row", "column", "metric", "mean", "std", "n", "low", "high", "interval", "printed", "bold"),
    *("published", "difference", "seeds", "keys", "run_ids", "status"),
)


def to_csv(table: Table) -> str:
    """One line for each cell, numbers at full precision in the metric's own unit; lists are separated by spaces."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in table.all_rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            if not cell.metric:
                continue
            number = cell.number
            parts = (
                [number.mean, number.std, number.n, number.low, number.high, number.method] if number else [None] * 6
            )
            ours = number.mean - cell.published if number and cell.published is not None else None
            writer.writerow(
                [
                    *(row.block, row.label, column.heading, cell.metric, *parts, cell.mean, cell.bold),
                    *(cell.published, ours),
                    *(
                        " ".join(str(getattr(source, part) or "-") for source in cell.sources)
                        if part != "seed"
                        else " ".join(str(source.seed) for source in cell.sources)
                        for part in ("seed", "key", "run_id", "status")
                    ),
                ]
            )
    return out.getvalue()


def to_json(table: Table, about: Mapping[str, Any]) -> str:
    """The table in full, with `about` (how it was made) beside it. `from_json` reads it."""
    groups: dict[tuple[Source, ...], int] = {}

    def number_of(sources: tuple[Source, ...]) -> int:
        return groups.setdefault(sources, len(groups))

    def row(one: Row) -> dict[str, Any]:
        cells = [{**_fields(cell), "sources": number_of(cell.sources)} for cell in one.cells]
        for cell, made in zip(one.cells, cells, strict=True):
            made["number"] = dataclasses.asdict(cell.number) if cell.number else None
        return {**_fields(one), "cells": cells, "sources": number_of(one.sources)}

    choices = [
        {
            **_fields(choice),
            "candidates": [{**_fields(one), "sources": number_of(one.sources)} for one in choice.candidates],
        }
        for choice in table.choices
    ]
    content = {
        **_fields(table),
        "columns": [dataclasses.asdict(column) for column in table.columns],
        "baselines": [row(one) for one in table.baselines],
        "rows": [row(one) for one in table.rows],
        "metrics": {name: dataclasses.asdict(metric) for name, metric in table.metrics.items()},
        "choices": choices,
    }
    behind = [[dataclasses.asdict(source) for source in group] for group in groups]
    document = {"format": FORMAT, **about, "table": content, "sources": behind}
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def from_json(document: Mapping[str, Any]) -> Table:
    """The table of a JSON document; raises KeyError, TypeError or ValueError if it is none."""
    if document.get("format") != FORMAT:
        raise ValueError(f"format {document.get('format')!r} instead of {FORMAT}")
    groups = [tuple(Source(**source) for source in group) for group in document["sources"]]

    def row(one: Mapping[str, Any]) -> Row:
        cells = [
            Cell(**{**cell, "sources": groups[cell["sources"]], "number": cell["number"] and Number(**cell["number"])})
            for cell in one["cells"]
        ]
        return Row(**{**one, "head": tuple(one["head"]), "cells": tuple(cells), "sources": groups[one["sources"]]})

    def choice(one: Mapping[str, Any]) -> Choice:
        candidates = [Candidate(**{**each, "sources": groups[each["sources"]]}) for each in one["candidates"]]
        return Choice(**{**one, "candidates": tuple(candidates), "tied": tuple(one["tied"])})

    content = document["table"]
    sentences = {name: tuple(content[name]) for name in ("headings", "caption", "notes", "origin", "statistics")}
    return Table(
        **{
            **content,
            **sentences,
            "columns": tuple(Column(**{**one, "groups": tuple(one["groups"])}) for one in content["columns"]),
            "baselines": tuple(map(row, content["baselines"])),
            "rows": tuple(map(row, content["rows"])),
            "metrics": {name: Metric(**metric) for name, metric in content["metrics"].items()},
            "choices": tuple(map(choice, content["choices"])),
        }
    )


def _fields(one: Any) -> dict[str, Any]:
    return {part.name: getattr(one, part.name) for part in dataclasses.fields(one)}


@dataclasses.dataclass(frozen=True)
class _Behind:
    """Trials and the cells that they are behind: `places` are rows and columns, `label` is what these have in common,
    and `numbers` says the cells in words; it is empty where the trials are behind a whole row."""

    label: str
    places: tuple[tuple[int, int], ...]
    numbers: str
    sources: tuple[Source, ...]


def _behind(table: Table) -> Iterator[_Behind]:
    """What is behind the numbers: row by row, or where a row's cells have different trials, together all cells of the
    table that share theirs."""
    shared: dict[tuple[Source, ...], list[tuple[int, int]]] = {}
    for place, row in enumerate(table.all_rows):
        if row.sources:
            where = tuple((place, column) for column in range(len(row.cells)))
            yield _Behind(_join([row.block, row.label]), where, "", row.sources)
            continue
        for column, cell in enumerate(row.cells):
            if cell.sources:
                shared.setdefault(cell.sources, []).append((place, column))
    for sources, places in shared.items():
        names = [_name(table, *place) for place in places]
        same = [len(set(parts)) == 1 for parts in zip(*names, strict=True)]
        told = [
            " ".join(filter(None, [_join(itertools.compress(name, map(operator.not_, same))), words]))
            for name, (place, column) in zip(names, places, strict=True)
            if (words := described(table.all_rows[place].cells[column], table))
        ]
        yield _Behind(_join(itertools.compress(names[0], same)), tuple(places), "; ".join(told), sources)


def _name(table: Table, place: int, column: int) -> tuple[str, ...]:
    """The parts that name a cell: block and label of its row, headings of its column from the top."""
    row, heading = table.all_rows[place], table.columns[column]
    told, lowest = [], heading.heading
    for group in heading.groups:
        # Short forms, "Accuracy" above "Linear" say, are not part of the heading in full.
        told.append(group if lowest.startswith(f"{group}, ") else "")
        lowest = lowest.removeprefix(f"{group}, ")
    return row.block, row.label, *told, lowest


def _join(parts: Iterable[str]) -> str:
    return ", ".join(filter(None, parts))


def described(cell: Cell | None, table: Table) -> str:
    """A number in words: mean, spread, interval and number of seeds."""
    if cell is None or cell.number is None:
        return ""
    metric, number = table.metrics[cell.metric], cell.number
    words = f"{cell.mean} ± {spell(number.std, metric)}" if number.std is not None else cell.mean
    if number.low is not None and number.high is not None:
        words += f", 95 % interval {spell(number.low, metric)} to {spell(number.high, metric)} ({number.method})"
    return f"{words}, n = {number.n}"


def _has_published(row: Row) -> bool:
    return any(cell.published is not None for cell in row.cells)


def _published(cell: Cell, table: Table) -> str:
    """A published number, with ours minus it in brackets."""
    if cell.published is None:
        return ""
    words = spell(cell.published, table.metrics[cell.metric])
    return words + (f" ({cell.difference})" if cell.difference else "")


def _markdown_cell(cell: Cell) -> str:
    mean = f"**{cell.mean}**" if cell.bold else cell.mean
    return mean + (f" ± {cell.std}" if cell.std else "") + (f" (n={cell.n})" if cell.n else "")


def _markdown_source(source: Source, table: Table) -> str:
    run = f"`{source.run_id}`" if source.run_id else ""
    if run and table.runs_at:
        run = f"[{run}]({table.runs_at}{source.run_id})"
    state = "" if source.status == FINISHED else f" {source.status.lower()}"
    return f"seed {source.seed}{' ' if run else ''}{run} (key `{source.key}`){state}"


@dataclasses.dataclass(frozen=True)
class _LatexColumn:
    """A column of numbers that siunitx aligns, with one beside it for spreads where there are any."""

    digits: str
    beside: bool

    @classmethod
    def of(cls, cells: Sequence[Cell], table: Table) -> _LatexColumn:
        printed = [cell.mean for cell in cells if not cell.empty]
        printed += [_published(cell, table).split(" ")[0] for cell in cells if cell.published is not None]
        parts = [number.lstrip("-").partition(".") for number in printed] or [("1", "", "")]
        whole, decimals = (max(len(part[side]) for part in parts) for side in (0, 2))
        sign = "-" if any(number.startswith("-") for number in printed) else ""
        beside = any(cell.std or cell.n or cell.difference for cell in cells)
        return cls(f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}", beside)

    @property
    def width(self) -> int:
        return 1 + self.beside

    @property
    def layout(self) -> str:
        return f"S[table-format={self.digits}]" + (r"@{\,}l" if self.beside else "")

    def cell(self, cell: Cell) -> str:
        if cell.empty:
            words = text.latex(cell.mean)
            return rf"\multicolumn{{{self.width}}}{{c}}{{{words}}}" if words else " & " * self.beside
        mean = rf"\bfseries {cell.mean}" if cell.bold else cell.mean
        if not self.beside:
            return mean
        spread = rf"{{\tiny$\pm${_short(cell.std)}}}" if cell.std else ""
        fewer = rf"{{\tiny\,($n{{=}}{cell.n}$)}}" if cell.n else ""
        return f"{mean} & {spread}{fewer}"

    def published(self, cell: Cell, table: Table) -> str:
        number, _, difference = _published(cell, table).partition(" ")
        if not number:
            return " & " * self.beside
        return f"{number} & {{\\tiny{text.latex(difference)}}}" if self.beside else number


def _short(std: str) -> str:
    return std.removeprefix("0") if std.startswith("0.") else std


def _levels(table: Table) -> Iterator[list[tuple[str, list[int]]]]:
    """The headings above the columns, from the top: each with the columns it spans. Neighbours share a heading if they
    share those above it."""
    for level in range(max((len(column.groups) for column in table.columns), default=0)):
        names = [column.groups[: level + 1] for column in table.columns]
        shared = itertools.groupby(enumerate(names), key=lambda one: one[1])
        yield [(name[level], [place for place, _ in members]) for name, members in shared]


def _latex_header(table: Table, columns: Sequence[_LatexColumn]) -> Iterator[tuple[str, str]]:
    """A line of headings for each level, and the rules below it."""
    lead = "& " * (len(table.headings) - 1)
    for level in _levels(table):
        position, cells, rules = len(table.headings), [], []
        for name, places in level:
            width = sum(columns[place].width for place in places)
            cells.append(rf"& \multicolumn{{{width}}}{{c}}{{{text.latex_symbol(name)}}}")
            if name and len(places) > 1:
                rules.append(rf"\cmidrule(lr){{{position + 1}-{position + width}}}")
            position += width
        yield lead + " ".join(cells) + r" \\", "".join(rules)
    lowest = [
        rf"& \multicolumn{{{column.width}}}{{c}}{{{text.latex(heading.short)}}}"
        for heading, column in zip(table.columns, columns, strict=True)
    ]
    yield " & ".join(map(text.latex_symbol, table.headings)) + " " + " ".join(lowest) + r" \\", ""


def _latex_head(row: Row, axes: int) -> str:
    fewer = rf" {{\scriptsize($n{{=}}{row.n}$)}}" if row.n else ""
    if row.is_named:
        return rf"\multicolumn{{{axes}}}{{@{{}}l}}{{{text.latex(row.label)}{fewer}}}"
    return " & ".join(map(text.latex_value, row.head)) + fewer


def _environment(autoescape: bool = False, **delimiters: Any) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=autoescape,  # Markdown and LaTeX are no HTML; each filter escapes for its own format.
        **delimiters,
    )
