"""From a table back to the runs: does it still say what MLflow holds, and what is behind a cell?"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reports import store
from reports.build import FORMATS, program, render_all
from reports.provenance.origin import Maker, Origin
from reports.render import formats as render
from reports.statistics.inference import Number
from reports.store import NothingThere
from reports.tables.model import FINISHED, Cell, Choice, Row, Source, Table
from sweeps.errors import UserError

TOLERANCE = 1e-9
"""Relative: numbers are recomputed from the same values, but another NumPy may add them in another order."""


@dataclass(frozen=True)
class Checked:
    """A table that was checked: its folder, how many numbers it has, and what of it has drifted, a sentence each."""

    folder: Path
    numbers: int
    drift: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A run behind a cell: `value` of the cell's metric, its settings, and the command that repeats it."""

    source: Source
    value: float | None
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


def verify(uri: str | None, path: str | Path) -> list[Checked]:
    """Check every table under a folder, or the one a file belongs to.

    Each table is made anew from what MLflow holds now, by the specification in its table.json, and compared with what
    that file holds: trials, numbers, choices and words. Every printed file is compared with what the numbers in
    table.json give.

    Raises UserError if there is no table, if one cannot be read, and if the store cannot be read.
    """
    path = Path(path)
    sidecars = sorted(path.rglob("table.json")) if path.is_dir() else [_sidecar(path)]
    if not sidecars:
        raise UserError(f"{path}: no table.json in it; write the tables with: cplearn report")
    maker = Maker(uri)
    return [_check(maker, sidecar) for sidecar in sidecars]


def trace(uri: str | None, path: str | Path, words: Sequence[str]) -> list[Traced]:
    """The cells of a table whose row and column answer to all of the words, with their runs.

    Words need not be exact: case and punctuation do not count, a part of a name will do, and a slip of the pen.

    Raises UserError if there is no such table or cell, and if the store cannot be read.
    """
    table, _ = _read(_sidecar(Path(path)))
    found = _find(table, words)
    records = store.read_keys(uri, {source.key for _, _, cell in found for source in cell.sources})
    return [_traced(table, row, heading, cell, records) for row, heading, cell in found]


def _sidecar(path: Path) -> Path:
    """The table.json of a table's file or folder."""
    found = (path if path.is_dir() else path.parent) / "table.json"
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    if not found.is_file():
        raise UserError(f"{found}: no such file, and it is what knows the runs; write it with: cplearn report")
    return found


def _read(sidecar: Path) -> tuple[Table, dict[str, Any]]:
    try:
        document = json.loads(sidecar.read_text(encoding="utf-8"))
        return render.from_json(document), document
    except (OSError, ValueError, TypeError, KeyError, LookupError, AttributeError) as error:
        raise UserError(f"{sidecar}: is not a table of this program ({type(error).__name__}: {error})") from None


def _check(maker: Maker, sidecar: Path) -> Checked:
    then, document = _read(sidecar)
    about = {key: value for key, value in document.items() if key not in {"format", "table", "sources"}}
    try:
        origin = Origin(**about["made_from"])
    except (KeyError, TypeError):
        raise UserError(
            f"{sidecar}: does not say what it was made of, as tables of earlier versions; write it anew with: "
            "cplearn report"
        ) from None
    try:
        now = maker.make(origin)
    except NothingThere:
        raise
    except UserError as error:
        drift = [f"cannot be made any more: {error}"]
    else:
        drift = list(_drift(then, now))
    drift += _misprinted(sidecar, render_all(then, about), document.get("program"))
    numbers = sum(cell.number is not None for row in then.all_rows for cell in row.cells)
    return Checked(sidecar.parent, numbers, tuple(drift))


def _drift(then: Table, now: Table) -> Iterator[str]:
    """What of a table is no longer so: trials, rows and columns, numbers, choices; if none of these, words."""
    was, is_now = _sources(then), _sources(now)
    found = [*_finished_since(was, is_now), *_moved(was, is_now)]
    found += [*_changed(then, now), *_chosen_otherwise(then, now)]
    yield from found
    if not found:
        for part in ("title", "headings", "caption", "statistics", "notes", "origin"):
            if (was := getattr(then, part)) != (should := getattr(now, part)):
                yield f"{part}: {_difference(' '.join(was), ' '.join(should))}"


def _sources(table: Table) -> dict[str, Source]:
    """All trials behind a table, by key."""
    groups = [row.sources for row in table.all_rows]
    groups += [cell.sources for row in table.all_rows for cell in row.cells]
    groups += [one.sources for choice in table.choices for one in choice.candidates]
    return {source.key: source for group in groups for source in group}


def _finished_since(then: Mapping[str, Source], now: Mapping[str, Source]) -> Iterator[str]:
    """How many trials have a result now and had none when the table was made, as while its sweep goes on."""
    finished, known = ({one.key for one in sources.values() if one.status == FINISHED} for sources in (now, then))
    if more := len(finished - known):
        runs = "1 run has" if more == 1 else f"{more} runs have"
        yield f"{runs} finished that the table does not have; cplearn report writes it anew"


def _moved(then: Mapping[str, Source], now: Mapping[str, Source]) -> Iterator[str]:
    """Trials that are no longer behind the table, are new behind it, or for which another run speaks."""
    for key, seed in sorted({(one.key, one.seed) for one in (*then.values(), *now.values())}):
        was, found = then.get(key), now.get(key)
        if was != found:
            had = _state(was) if was else "no such trial"
            has = _state(found) if found else "none that its sweep declares"
            yield f"trial {key}, seed {seed}: the table has {had}, MLflow now {has}"


def _state(source: Source) -> str:
    return f"{source.run_id or 'no run'} ({source.status.lower()})"


def _changed(then: Table, now: Table) -> Iterator[str]:
    """Rows, columns and cells that are others, though made of the same runs; of others `_moved` tells."""
    rows = {(row.block, row.label): row for row in then.all_rows}
    again = {(row.block, row.label): row for row in now.all_rows}
    places = {column.heading: place for place, column in enumerate(now.columns)}
    known = {column.heading for column in then.columns}
    parts = [(" ".join(filter(None, place)), place in rows, place in again) for place in {**rows, **again}]
    parts += [(heading, heading in known, heading in places) for heading in [*known, *(places.keys() - known)]]
    for label, was, found in parts:
        if was != found:
            yield f"{label}: {'has no trials any more' if was else 'is not in the table'}"
    for (block, label), row in rows.items():
        for column, old in zip(then.columns, row.cells, strict=True):
            other = again.get((block, label))
            if other is None or column.heading not in places:
                continue
            new = other.cells[places[column.heading]]
            where = ", ".join(filter(None, [block, label, column.heading]))
            if set(old.sources or row.sources) != set(new.sources or other.sources):
                continue
            if not _same(old.number, new.number):
                yield f"{where}: the table has {_number(old.number)}, MLflow gives {_number(new.number)}"
            elif _printed(old) != _printed(new):
                yield f"{where}: {_printed(old)} should be {_printed(new)}"


def _chosen_otherwise(then: Table, now: Table) -> Iterator[str]:
    choices = {(choice.where, choice.over): choice for choice in now.choices}
    for choice in then.choices:
        again = choices.get((choice.where, choice.over))
        if again is not None and choice.chosen != again.chosen:
            yield (
                f"{choice.where}: {choice.over} = {choice.chosen} was chosen by {choice.criterion}, MLflow now gives "
                f"{again.chosen}"
            )


def _misprinted(sidecar: Path, expected: Mapping[str, str], made_by: str | None) -> Iterator[str]:
    """Lines of the printed files that the numbers in table.json do not give."""
    older = f" (written by {made_by}, this is {program()})" if made_by != program() else ""
    for kind in FORMATS:
        path = sidecar.with_suffix(f".{kind}")
        if not path.is_file():
            yield f"{path.name}: is missing"
            continue
        found = path.read_text(encoding="utf-8", errors="replace").splitlines()
        wanted = expected[kind].splitlines()
        if kind == "json":
            continue
        lines = itertools.zip_longest(found, wanted, fillvalue="")
        for number, (line, should) in enumerate(lines, start=1):
            if line != should:
                yield f"{path.name}, line {number}{older}: {_difference(line, should)}"


def _difference(line: str, should: str) -> str:
    """The parts of a line that differ, in its own columns where it has some."""
    for separator in ("|", "&", ","):
        parts, wanted = (text.split(separator) for text in (line, should))
        if len(parts) == len(wanted) > 1:
            pairs = [(a.strip(), b.strip()) for a, b in zip(parts, wanted, strict=True) if a != b]
            return "; ".join(f"{a[:80]!r} should be {b[:80]!r}" for a, b in pairs)
    return f"{line.strip()[:80]!r} should be {should.strip()[:80]!r}"


def _same(first: Number | None, second: Number | None) -> bool:
    if first is None or second is None:
        return first is second
    for a, b in zip(asdict(first).values(), asdict(second).values(), strict=True):
        if isinstance(a, float) and isinstance(b, float):
            if not math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-12) and not (math.isnan(a) and math.isnan(b)):
                return False
        elif a != b:
            return False
    return True


def _number(number: Number | None) -> str:
    return f"{number.mean:.6g} (n = {number.n})" if number else "no number"


def _printed(cell: Cell) -> str:
    words = cell.mean + (f" ± {cell.std}" if cell.std else "") + (f" (n={cell.n})" if cell.n else "")
    return f"{words!r}{' in bold' if cell.bold else ''}"


def _find(table: Table, words: Sequence[str]) -> list[tuple[Row, str, Cell]]:
    """The cells that match best, those without any trial left out."""
    scored = []
    labels: dict[str, None] = {}
    for row in table.all_rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            if not cell.metric:
                continue
            metric = table.metrics[cell.metric]
            names = [row.label, *row.head, row.block, column.heading, column.short, *column.groups]
            names += [*column.heading.split(", "), cell.metric, metric.heading]
            names = [name for name in dict.fromkeys(names) if name]
            labels |= dict.fromkeys(names)
            scores = [max(_likeness(word, name) for name in names) for word in words]
            scored.append((min(scores, default=1), sum(scores), row, column.heading, cell))
    best = max((total for least, total, *_ in scored if least), default=0)
    found = [(row, heading, cell) for least, total, row, heading, cell in scored if least and total == best]
    if not found:
        strange = [word for word in words if not any(_likeness(word, label) for label in labels)]
        near = difflib.get_close_matches(strange[0], list(labels), 3, cutoff=0.3) if strange else []
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        shown = ", ".join(dict.fromkeys(row.label for row in table.all_rows))
        raise UserError(f"no cell answers to {' and '.join(map(repr, words))}{hint or '.'} Rows: {shown}")
    return found


def _likeness(word: str, name: str) -> int:
    """3 for the same, 2 for a part, 1 for a slip of the pen, 0 for another word."""
    a, b = (re.sub(r"[\W_]+", "", text.casefold()) for text in (word, name))
    if not a or not b:
        return 0
    if a == b:
        return 3
    if a in b:
        return 2
    return int(difflib.SequenceMatcher(None, a, b).ratio() >= 0.75)


def _traced(table: Table, row: Row, heading: str, cell: Cell, records: Mapping[str, Mapping[str, Any]]) -> Traced:
    where = ", ".join(filter(None, [row.block, row.label, heading]))
    runs = []
    for source in cell.sources:
        record = records.get(source.key, {})
        value = record.get(cell.metric)
        settings = {
            str(name).removeprefix("params."): str(text)
            for name, text in record.items()
            if str(name).startswith("params.")
        }
        command = record.get("tags.command", "")
        runs.append(Run(source, float(value) if value is not None else None, settings, command))
    keys = {source.key for source in cell.sources}
    behind = (one for one in table.choices if any(keys & {s.key for s in c.sources} for c in one.candidates))
    return Traced(where, cell, render.described(cell, table), "; ".join(map(_chosen, behind)), tuple(runs))


def _chosen(choice: Choice) -> str:
    scores = ", ".join(
        f"{one.value}: {one.score:.4f}" if one.score is not None else f"{one.value}: none" for one in choice.candidates
    )
    return f"{choice.over} = {choice.chosen} chosen by mean {choice.criterion} ({scores})"
