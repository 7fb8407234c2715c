"""A table in markdown and in HTML."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup

from reports.render import parts
from reports.tables.model import FINISHED, Cell, Source, Table


def to_markdown(table: Table) -> str:
    """GitHub-flavoured markdown, with caption, notes and the runs behind the numbers."""
    templates = parts.environment()
    templates.filters.update(md=markdown, cell=_markdown_cell)
    return templates.get_template("table.md.j2").render(
        table=table, groups=parts.run_groups(table), source=lambda source: _markdown_source(source, table)
    )


def to_html(table: Table) -> str:
    """A page of its own without scripts, light or dark as the reader prefers; each number leads to its runs."""
    groups = parts.run_groups(table)
    anchors = {place: number for number, group in enumerate(groups) for place in group.places}
    return _html(
        "table.html.j2",
        table,
        groups=groups,
        anchor=lambda row, column: anchors.get((row, column)),
        caption=" ".join(table.caption + table.statistics),
    )


def to_html_rows(table: Table) -> Markup:
    """The HTML table alone, for a page that has its caption and its runs elsewhere."""
    return Markup(_html("rows.html.j2", table, anchor=None, caption=""))


def markdown(text: str) -> str:
    """Text that markdown prints as it reads, on one line and safe inside a table."""
    return re.sub(r"([\\`*_\[\]<>|~$&])", r"\\\1", parts.one_line(text))


def _html(template: str, table: Table, **content: Any) -> str:
    return (
        parts.environment(autoescape=True)
        .get_template(template)
        .render(
            table=table,
            levels=[[(name, len(places)) for name, places in level] for level in parts.levels(table)],
            tip=lambda cell: parts.described(cell, table),
            **content,
        )
    )


def _markdown_cell(cell: Cell) -> str:
    mean = f"**{cell.mean}**" if cell.bold else cell.mean
    return mean + (f" ± {cell.std}" if cell.std else "") + (f" (n={cell.n})" if cell.n else "")


def _markdown_source(source: Source, table: Table) -> str:
    run = f"`{source.run_id}`" if source.run_id else ""
    if run and table.runs_at:
        run = f"[{run}]({table.runs_at}{source.run_id})"
    state = "" if source.status == FINISHED else f" {source.status.lower()}"
    return f"seed {source.seed}{' ' if run else ''}{run} (key `{source.key}`){state}"
