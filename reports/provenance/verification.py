"""Does a written table still say what the tracking store holds, and do its files say what it holds?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from reports.provenance.origin import Origin, TableMaker, read_sidecar, sidecar_of
from reports.render.files import FORMATS, program, render_all
from reports.statistics.inference import Number
from reports.store import NothingThere
from reports.tables.model import FINISHED, Cell, Source, Table
from sweeps.errors import UserError

TOLERANCE = 1e-9
"""Relative difference of equal numbers: another NumPy may add the same values in another order."""


@dataclass(frozen=True)
class Checked:
    """A table that was checked: its folder, how many numbers it has, and what of it has drifted, a sentence each."""

    folder: Path
    numbers: int
    drift: tuple[str, ...]


def verify(uri: str | None, path: str | Path) -> list[Checked]:
    """Check every table under a folder, or the one a file belongs to.

    Each table is made anew from what MLflow holds now, by the specification in its table.json, and compared with what
    that file holds: trials, numbers, choices and words. Every printed file is compared with what the numbers in
    table.json give.

    Raises UserError if there is no table, if one cannot be read, and if the store cannot be read.
    """
    path = Path(path)
    sidecars = sorted(path.rglob("table.json")) if path.is_dir() else [sidecar_of(path)]
    if not sidecars:
        raise UserError(f"{path}: no table.json in it; write the tables with: cplearn report")
    maker = TableMaker(uri)
    return [_check(maker, sidecar) for sidecar in sidecars]


def _check(maker: TableMaker, sidecar: Path) -> Checked:
    then, document = read_sidecar(sidecar)
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
