"""The files that every table is written to: markdown, HTML, CSV and JSON, with the way back from JSON; and LaTeX."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd
from markupsafe import Markup
from pydantic import TypeAdapter, ValidationError

from reports import spelling
from reports.render import numbers, parts
from reports.render.latex import to_latex
from reports.tables.model import Cell, Table
from sweeps.errors import explain

LATER_FILES = ("numbers.tex", "numbers.json")
FILES = ("table.md", "table.tex", "table.html", "table.csv", "table.json", *LATER_FILES)
JSON_VERSION = 1
CSV_COLUMNS = (
    *("block", "row", "column", "metric", "mean", "std", "n", "low", "high", "interval", "printed", "bold"),
    *("published", "difference", "seeds", "keys", "run_ids", "status"),
)


def render_all(table: Table, about: Mapping[str, Any]) -> dict[str, str]:
    """The text of each file of a table by its name; `about` says in the JSON how the table was made."""
    texts = to_markdown(table), to_latex(table), to_html(table), to_csv(table), to_json(table, about)
    return dict(zip(FILES, (*texts, numbers.to_tex(table), numbers.to_json(table)), strict=True))


def program() -> str:
    """Name and version of this program."""
    try:
        return f"cplearn-sweeps {version('cplearn-sweeps')}"
    except PackageNotFoundError:
        return "cplearn-sweeps"


def to_csv(table: Table) -> str:
    """One line for each cell, numbers at full precision in the metric's own unit; lists are separated by spaces."""
    lines: list[Sequence[Any]] = []
    for row, column, cell in table.cells():
        if not cell.metric:
            continue
        number = cell.number
        values = (number.mean, number.std, number.n, number.low, number.high, number.method) if number else [""] * 6
        ours = number.mean - cell.published if number and cell.published is not None else None
        trials = [(str(s.seed), s.key or "none", s.run_id or "none", s.status) for s in cell.sources]
        lists = [" ".join(each) for each in zip(*trials, strict=True)] or [""] * 4
        names = (row.block, row.label, column.heading, cell.metric)
        lines.append([*names, *values, cell.mean, cell.bold, cell.published, ours, *lists])
    return spelling.frame_text(pd.DataFrame(lines, columns=list(CSV_COLUMNS), dtype=object))


def to_json(table: Table, about: Mapping[str, Any]) -> str:
    """The table in full, with `about` (how it was made) beside it. `from_json` reads it.

    Many cells share their trials: each group of trials is written once, and `sources` is its number.
    """
    groups: dict[str, int] = {}

    def numbered(parts: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(parts)
        if "sources" in content:
            content["sources"] = groups.setdefault(json.dumps(content["sources"]), len(groups))
        return content

    content = dataclasses.asdict(table, dict_factory=numbered)
    document = {"format": JSON_VERSION, **about, "table": content, "sources": list(map(json.loads, groups))}
    text = json.dumps(document, ensure_ascii=False, indent=1) + "\n"
    # JSON alone keeps control characters, by their codes: `verify` compares the words with those of the store.
    return spelling.CONTROL.sub(lambda control: f"\\u{ord(control[0]):04x}", text)


def from_json(document: Mapping[str, Any]) -> Table:
    """The table of a JSON document; raises LookupError, TypeError or ValueError if it is none."""
    if document.get("format") != JSON_VERSION:
        raise ValueError(f"format {document.get('format')!r} instead of {JSON_VERSION}")
    groups = document["sources"]

    def filled(item: Any) -> Any:
        if isinstance(item, list):
            return [filled(part) for part in item]
        if isinstance(item, dict):
            return {key: groups[part] if key == "sources" else filled(part) for key, part in item.items()}
        return item

    try:
        return TypeAdapter(Table).validate_python(filled(document["table"]))
    except ValidationError as error:
        raise ValueError(explain(error, ())) from None


def to_markdown(table: Table) -> str:
    """GitHub-flavoured markdown, with caption, notes and the runs behind the numbers."""
    templates = parts.environment()
    templates.filters.update(md=markdown, cell=_markdown_cell)
    return templates.get_template("table.md.j2").render(table=table, groups=parts.run_groups(table))


def to_html(table: Table) -> str:
    """A page of its own without scripts, light or dark as the reader prefers; each number leads to its runs."""
    groups = parts.run_groups(table)
    anchors = {place: number for number, group in enumerate(groups) for place in group.places}
    caption = " ".join(table.caption + table.statistics)
    return _html("table.html.j2", table, groups=groups, anchor=lambda *place: anchors.get(place), caption=caption)


def to_html_rows(table: Table) -> Markup:
    """The HTML table alone, for a page that has its caption and its runs elsewhere."""
    return Markup(_html("rows.html.j2", table, anchor=None, caption=""))


def markdown(text: str) -> str:
    """Text that markdown prints as it reads, on one line and safe inside a table: no list, heading, link or emoji."""
    line = re.sub(r"[\\`*_\[\]<>|~$&]|^#|^[+-](?= |$)|:(?=[\w+-]+:)", r"\\\g<0>", spelling.one_line(text))
    return re.sub(r"^([0-9]+)([.)])(?= |$)", r"\1\\\2", line)


def _html(name: str, table: Table, **content: Any) -> str:
    template = parts.environment(autoescape=True).get_template(name)
    levels = list(parts.levels(table))
    return template.render(table=table, levels=levels, tip=lambda cell: parts.described(cell, table), **content)


def _markdown_cell(cell: Cell) -> str:
    return cell.printed.replace(cell.mean, f"**{cell.mean}**", 1) if cell.bold else cell.printed
