"""A table as markdown and as LaTeX."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import jinja2

from reports import text
from reports.tables import Cell, Row, Table

TEMPLATES = Path(__file__).with_name("templates")


def to_markdown(table: Table) -> str:
    """GitHub-flavoured markdown, with caption, notes and the runs behind each row."""
    environment = _environment()
    environment.filters.update(md=text.markdown, cell=_markdown_cell)
    return environment.get_template("table.md.j2").render(table=table)


def to_latex(table: Table) -> str:
    """A LaTeX float as wide as the page, for use with input; the runs behind each row are in comments.

    It needs the package booktabs. With one axis it fits a text width of 6.75 inches (ICML).
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
    groups, position = [], len(table.headings)
    for name, members in itertools.groupby(column.groups[-1] for column in table.columns):
        groups.append((name, position + 1, position := position + len(list(members))))
    columns = zip(*(row.cells for row in (*table.baselines, *table.rows)), strict=True)
    widest = [max((cell.std for cell in column if cell.std), key=len, default=None) for column in columns]
    return environment.get_template("table.tex.j2").render(
        table=table,
        groups=groups,
        head=lambda row: _latex_head(row, len(table.headings)),
        cells=lambda row: [_latex_cell(cell, spread) for cell, spread in zip(row.cells, widest, strict=True)],
        # More axes leave less room for the numbers.
        size=r"\footnotesize" if len(table.headings) == 1 or table.n == 1 else r"\scriptsize",
        anchor=re.sub(r"[^A-Za-z0-9]+", "-", f"{table.sweep}-{table.slug}").strip("-"),
    )


def _markdown_cell(cell: Cell) -> str:
    mean = f"**{cell.mean}**" if cell.bold else cell.mean
    return mean + (f" ± {cell.std}" if cell.std else "") + (f" (n={cell.n})" if cell.n else "")


def _latex_head(row: Row, axes: int) -> str:
    fewer = rf" {{\scriptsize($n{{=}}{row.n}$)}}" if row.n else ""
    if row.is_named:
        return rf"\multicolumn{{{axes}}}{{@{{}}l}}{{{text.latex(row.label)}{fewer}}}"
    return " & ".join(map(text.latex_value, row.head)) + fewer


def _latex_cell(cell: Cell, widest: str | None) -> str:
    """`widest` is the column's widest spread: a number without one gets its space, so that the means stay in line."""
    if cell.empty:
        return text.latex(cell.mean)
    mean = rf"\mathbf{{{cell.mean}}}" if cell.bold else cell.mean
    fewer = rf"{{\scriptscriptstyle\,(n{{=}}{cell.n})}}" if cell.n else ""
    spread = _latex_spread(cell.std) if cell.std else rf"\phantom{{{_latex_spread(widest)}}}" if widest else ""
    return f"${mean}{spread}{fewer}$"


def _latex_spread(std: str) -> str:
    short = std.removeprefix("0") if std.startswith("0.") else std
    return rf"{{\scriptscriptstyle\pm{short}}}"


def _environment(**delimiters: Any) -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # The output is no HTML; each filter escapes for its own format.
        **delimiters,
    )
