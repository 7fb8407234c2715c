"""A table in LaTeX, with booktabs and siunitx."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reports.render import escape, parts
from reports.tables.model import Cell, Row, Table


def to_latex(table: Table) -> str:
    """A LaTeX float as wide as the page, a document of its own or for use with input; the runs are in comments.

    It needs the packages booktabs and siunitx. With one axis it fits a text width of 6.75 inches (ICML).
    """
    templates = parts.environment(
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    templates.filters.update(tex=escape.latex, symbol=escape.latex_symbol, comment=escape.one_line)
    columns = [
        _LatexColumn.of([row.cells[place] for row in table.all_rows], table) for place in range(len(table.columns))
    ]
    dense = len(table.columns) > 11 or len(table.headings) > 1
    return templates.get_template("table.tex.j2").render(
        table=table,
        layout="l" * len(table.headings) + "".join(column.layout for column in columns),
        header=list(_latex_header(table, columns)),
        width=len(table.headings) + sum(column.width for column in columns),
        head=lambda row: _latex_head(row, len(table.headings)),
        cells=lambda row: [column.cell(cell) for column, cell in zip(columns, row.cells, strict=True)],
        published=lambda row: [column.published(cell, table) for column, cell in zip(columns, row.cells, strict=True)],
        groups=parts.run_groups(table),
        size=r"\scriptsize" if dense and table.n > 1 else r"\footnotesize",
        anchor=re.sub(r"[^A-Za-z0-9]+", "-", f"{table.sweep}-{table.slug}").strip("-"),
        blocks=any(row.block for row in table.all_rows),
    )


@dataclass(frozen=True)
class _LatexColumn:
    """A column of numbers that siunitx aligns, with one beside it for spreads where there are any."""

    digits: str
    beside: bool

    @classmethod
    def of(cls, cells: Sequence[Cell], table: Table) -> _LatexColumn:
        printed = [cell.mean for cell in cells if not cell.empty]
        printed += [parts.published(cell, table).split(" ")[0] for cell in cells if cell.published is not None]
        digits = [number.lstrip("-").partition(".") for number in printed] or [("1", "", "")]
        whole, decimals = (max(len(sides[side]) for sides in digits) for side in (0, 2))
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
            text = escape.latex(cell.mean)
            return rf"\multicolumn{{{self.width}}}{{c}}{{{text}}}" if text else " & " * self.beside
        mean = rf"\bfseries {cell.mean}" if cell.bold else cell.mean
        if not self.beside:
            return mean
        spread = rf"{{\tiny$\pm${_short(cell.std)}}}" if cell.std else ""
        fewer = rf"{{\tiny\,($n{{=}}{cell.n}$)}}" if cell.n else ""
        return f"{mean} & {spread}{fewer}"

    def published(self, cell: Cell, table: Table) -> str:
        number, _, difference = parts.published(cell, table).partition(" ")
        if not number:
            return " & " * self.beside
        return f"{number} & {{\\tiny{escape.latex(difference)}}}" if self.beside else number


def _short(std: str) -> str:
    return std.removeprefix("0") if std.startswith("0.") else std


def _latex_header(table: Table, columns: Sequence[_LatexColumn]) -> Iterator[tuple[str, str]]:
    """A line of headings for each level, and the rules below it."""
    lead = "& " * (len(table.headings) - 1)
    for level in parts.levels(table):
        position, cells, rules = len(table.headings), [], []
        for name, places in level:
            width = sum(columns[place].width for place in places)
            cells.append(rf"& \multicolumn{{{width}}}{{c}}{{{escape.latex_symbol(name)}}}")
            if name and len(places) > 1:
                rules.append(rf"\cmidrule(lr){{{position + 1}-{position + width}}}")
            position += width
        yield lead + " ".join(cells) + r" \\", "".join(rules)
    lowest = [
        rf"& \multicolumn{{{column.width}}}{{c}}{{{escape.latex(heading.short)}}}"
        for heading, column in zip(table.columns, columns, strict=True)
    ]
    yield " & ".join(map(escape.latex_symbol, table.headings)) + " " + " ".join(lowest) + r" \\", ""


def _latex_head(row: Row, axes: int) -> str:
    fewer = rf" {{\scriptsize($n{{=}}{row.n}$)}}" if row.n else ""
    if row.is_named:
        return rf"\multicolumn{{{axes}}}{{@{{}}l}}{{{escape.latex(row.label)}{fewer}}}"
    return " & ".join(map(escape.latex_value, row.head)) + fewer
