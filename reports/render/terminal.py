"""Tables for the terminal."""

import itertools
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from reports import spelling
from reports.tables import spec
from reports.tables.model import Cell, Column, Row, Table

WIDEST = 80  # Characters of the table of a sweep at most, unless it cannot be narrower.


def render_sweep(table: Table, width: int = WIDEST) -> RichTable:
    """A sweep's table in `width` characters, or WIDEST if that is less: the metrics that decide come first, others as
    far as they fit, and never a digit is cut. Columns that are not of the specification, the objectives of a search,
    stand before them."""
    usual, width = spec.read("sweep"), min(width, WIDEST)
    columns = {column.name: column for column in table.columns}
    objectives = [column for name, column in columns.items() if name not in usual.shown]
    for most in range(len(usual.essential), 0, -1):
        names = itertools.chain(*usual.essential[:most])
        kept = [*objectives, *(columns[name] for name in names if name in columns)]
        drawn = _grid(table, kept, width)
        if drawn.width and drawn.width <= width:
            break
    drawn.title, drawn.title_justify = _title(table), "left"
    left_out = [column for column in table.columns if column not in kept]
    drawn.caption, drawn.caption_justify = _hints(table, left_out), "left"
    return drawn


def render_table(table: Table, width: int = 100) -> Group:
    """A table with all of its columns. Where they do not fit in `width` characters, it is printed in parts below each
    other, each of which begins with the heads of the rows; columns under one heading stay together if they can. A part
    is never narrower than its numbers: print it without cropping."""
    parts: list[list[Column]] = [[]]

    def fits(more: Sequence[Column]) -> bool:
        return (_grid(table, [*parts[-1], *more], width).width or 0) <= width

    for _, group in itertools.groupby(table.columns, key=lambda column: column.groups[:1]):
        together = list(group)
        if parts[-1] and not fits(together):
            parts.append([])
        for column in together:
            if parts[-1] and not fits([column]):
                parts.append([])
            parts[-1].append(column)
    return Group(_title(table), *(_grid(table, part, width) for part in parts), _hints(table, []))


def _title(table: Table) -> Text:
    seeds = f"mean ± std over {table.n} seeds" if table.n > 1 else "one seed"
    return Text(f"{table.title}, {seeds}", style="bold")


def _hints(table: Table, left_out: Sequence[Column]) -> Text:
    missing = f"Further metrics, by --all-metrics and in table.md: {', '.join(c.heading for c in left_out)}."
    return Text("\n".join([*table.statistics, *table.notes, *([missing] if left_out else [])]), style="dim")


def _grid(table: Table, kept: Sequence[Column], width: int) -> RichTable:
    """Heads, headings and numbers of some of the columns, as wide as they need. Heads take half of `width` at most:
    longer ones have several lines."""
    drawn = RichTable(box=SIMPLE, pad_edge=False, header_style="bold")
    for heading in table.headings:
        most = max(8, width // 2 // len(table.headings))
        drawn.add_column(Text(heading), overflow="fold", max_width=most, vertical="bottom")
    for column in kept:
        drawn.add_column(Text(_stacked(column.heading)), justify="right", no_wrap=True, vertical="bottom")
    block = ""
    for row in table.all_rows:
        if row.block != block:
            block = row.block
            drawn.add_row(Text(block, style="italic"))
        drawn.add_row(*_heads(row, table), *(_cell(row.cells[table.columns.index(column)]) for column in kept))
        if row in table.baselines[-1:]:
            drawn.add_section()
    drawn.width = Console(width=10_000, height=100).measure(drawn).maximum
    return drawn


def _stacked(heading: str) -> str:
    """A heading on several lines, so that its column is no wider than its numbers need."""
    return heading.replace(", ", "\n") if ", " in heading else heading.replace(" ", "\n", 1)


def _heads(row: Row, table: Table) -> list[Text]:
    heads = [Text(spelling.one_line(head)) for head in row.head]
    heads[-1].append(f" (n={row.n})" if row.n else "", style="yellow")
    return heads + [Text("")] * (len(table.headings) - len(heads))


def _cell(cell: Cell) -> Text:
    text = Text(cell.mean, style="dim" if cell.empty else "bold green" if cell.bold else "")
    text.append(f"±{cell.std}" if cell.std else "", style="dim")
    text.append(f" (n={cell.n})" if cell.n else "", style="yellow")
    return text
