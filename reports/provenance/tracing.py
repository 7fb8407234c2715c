"""What is behind a cell of a written table: its runs, their settings, and the commands that repeat them."""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from reports import store
from reports.provenance.verification import read_sidecar, sidecar_of
from reports.render import parts
from reports.tables.model import FINISHED, Cell, Source, Table
from sweeps.errors import UserError
from sweeps.record import PARAMS, Tag


@dataclass(frozen=True)
class Run:
    """A run behind a cell: `value` of the cell's metric, `made_of` the metrics that a number of several runs is made
    of, its settings, and the command that repeats it."""

    source: Source
    value: float | None
    made_of: Mapping[str, float]
    settings: Mapping[str, str]
    command: str


@dataclass(frozen=True)
class Traced:
    """A cell with its runs. `where` names it in words; `chosen` says how its value of a setting was chosen."""

    where: str
    cell: Cell
    described: str
    chosen: str
    runs: tuple[Run, ...]


def trace(uri: str | None, path: str | Path, words: Sequence[str]) -> list[Traced]:
    """The cells of a table whose row and column answer to all of the words, with their runs.

    Words need not be exact: case and punctuation do not count, a part of a name will do, and a slip of the pen.

    Raises UserError if there is no such table or cell, and if the store cannot be read.
    """
    table = read_sidecar(sidecar_of(Path(path))).table
    cells = _matching_cells(table, words)
    records = store.read_keys(uri, {source.key for _, cell in cells for source in cell.sources})
    return [_traced(table, where, cell, records) for where, cell in cells]


def to_text(traced: Traced) -> Text:
    """A cell for the terminal: its runs, the settings that they share and those that they do not, and the commands."""
    text = Text(f"{traced.where}\n", style="bold")
    for line in filter(None, (traced.described or traced.cell.mean or "nothing can stand here", traced.chosen)):
        text.append(f"  {line}\n", style="not bold")
    settings = [run.settings for run in traced.runs if run.settings]
    shared = dict(set.intersection(*(set(each.items()) for each in settings))) if settings else {}
    for run in traced.runs:
        source = run.source
        text.append(f"\n  seed {source.seed}: run {source.run_id or 'none'}, key {source.key}, ", style="not bold")
        text.append(source.status.lower(), style="green" if source.status == FINISHED else "yellow")
        values = {traced.cell.metric: run.value} if run.value is not None else run.made_of
        text.append("".join(f", {name} = {value!r}" for name, value in values.items()) + "\n", style="not bold")
        apart = sorted((key, value) for key, value in run.settings.items() if key not in shared)
        if apart and len(settings) > 1:
            text.append(f"    {' '.join(f'{key}={value}' for key, value in apart)}\n", style="dim not bold")
        if run.command:
            text.append(f"    {run.command}\n", style="cyan not bold")
    if shared:
        listed = " ".join(f"{key}={value}" for key, value in sorted(shared.items()))
        text.append(f"\n  settings: {listed}\n", "dim not bold")
    return text


def _matching_cells(table: Table, words: Sequence[str]) -> list[tuple[str, Cell]]:
    """The cells that match best, each with its name; cells where nothing can stand are left out."""
    scored = []
    labels: dict[str, None] = {}
    for row, column, cell in table.cells():
        if not cell.metric:
            continue
        names = [row.label, *row.head, row.block, column.heading, column.short, *column.groups]
        names += [*column.heading.split(", "), cell.metric, table.metrics[cell.metric].heading]
        labels |= dict.fromkeys(filter(None, names))
        scores = [max(_likeness(word, name) for name in names) for word in words]
        if all(scores):
            scored.append((sum(scores), row.where(column), cell))
    if not scored:
        strange = [word for word in words if not any(_likeness(word, label) for label in labels)]
        near = difflib.get_close_matches(strange[0], list(labels), 3, cutoff=0.3) if strange else []
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        rows = ", ".join(dict.fromkeys(row.label for row in table.all_rows))
        raise UserError(f"no cell answers to {' and '.join(map(repr, words))}{hint or '.'} Rows: {rows}")
    best = max(total for total, *_ in scored)
    return [(where, cell) for total, where, cell in scored if total == best]


def _likeness(word: str, name: str) -> int:
    """3 for the same, 2 for a part, 1 for a slip of the pen, 0 for another word."""
    a, b = (re.sub(r"[\W_]+", "", text.casefold()) for text in (word, name))
    if not a or not b:
        return 0
    if a in b:
        return 3 if a == b else 2
    return int(difflib.SequenceMatcher(None, a, b).ratio() >= 0.75)


def _traced(table: Table, where: str, cell: Cell, records: Mapping[str, Mapping[str, Any]]) -> Traced:
    runs, chosen = [], []
    for source in cell.sources:
        record = records.get(source.key, {})
        settings = {name.removeprefix(PARAMS): str(text) for name, text in record.items() if name.startswith(PARAMS)}
        made_of = {name: record[name] for name in cell.made_of if name in record}
        runs.append(Run(source, record.get(cell.metric), made_of, settings, record.get(Tag.COMMAND.column, "")))
    for choice in table.choices:
        if not {*cell.sources}.isdisjoint(source for each in choice.candidates for source in each.sources):
            scores = [(each.value, "none" if each.score is None else f"{each.score:.4f}") for each in choice.candidates]
            listed = ", ".join(f"{value}: {score}" for value, score in scores)
            chosen.append(f"{choice.over} = {choice.chosen} chosen by mean {choice.criterion} ({listed})")
    return Traced(where, cell, parts.described(cell, table), "; ".join(chosen), tuple(runs))
