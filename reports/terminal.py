"""A report's table for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from reports.build import Report
from reports.tables import Cell, Column, Row, Table, spec
from reports.tables.spec import TableSpec


def render(report: Report, width: int = 100, table: TableSpec | None = None) -> RichTable:
    """The table in at most `width` characters: columns that do not fit go, the least essential first, never a digit."""
    groups = list((table or spec.read("sweep")).essential)
    while True:
        kept = [column for column in report.table.columns if any(column.name in group for group in groups)]
        drawn = _draw(report.table, kept)
        if len(groups) == 1 or Console(width=10_000).measure(drawn).maximum <= width:
            return drawn
        groups.pop()


def _draw(table: Table, kept: list[Column]) -> RichTable:
    seeds = f"mean ± std over {table.n} seeds" if table.n > 1 else "one seed"
    left_out = [column.heading for column in table.columns if column not in kept]
    hints = [
        *table.statistics,
        *table.notes,
        *([f"Not shown here, but in table.md: {', '.join(left_out)}."] if left_out else []),
    ]
    drawn = RichTable(
        title=Text(f"{table.title}, {seeds}", style="bold"),
        title_justify="left",
        caption=Text("\n".join(hints), style="dim"),
        caption_justify="left",
        box=SIMPLE,
        pad_edge=False,
        header_style="bold",
    )
    for heading in table.headings:
        drawn.add_column(Text(heading), no_wrap=True, vertical="bottom")
    for column in kept:
        drawn.add_column(Text(column.heading.replace(" ", "\n", 1)), justify="right", no_wrap=True, vertical="bottom")
    for row in (*table.baselines, *table.rows):
        drawn.add_row(*_heads(row, table), *(_cell(row.cells[table.columns.index(column)]) for column in kept))
        if row in table.baselines[-1:]:
            drawn.add_section()
    return drawn


def _heads(row: Row, table: Table) -> list[Text]:
    heads = [Text(head) for head in row.head]
    heads[-1].append(f" (n={row.n})" if row.n else "", style="yellow")
    return heads + [Text("")] * (len(table.headings) - len(heads))


def _cell(cell: Cell) -> Text:
    text = Text(cell.mean, style="dim" if cell.empty else "bold green" if cell.bold else "")
    text.append(f"±{cell.std}" if cell.std else "", style="dim")
    text.append(f" (n={cell.n})" if cell.n else "", style="yellow")
    return text
