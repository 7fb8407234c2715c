"""What a table is made of, so that it can be made again: does it still say what the tracking store holds?"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from reports import store
from reports.render.files import LATER_FILES, from_json, program, render_all
from reports.statistics.inference import Number
from reports.store import SweepResult
from reports.tables import place_runs, table_of_sweep
from reports.tables.model import FINISHED, Cell, Source, Table
from reports.tables.spec import TableSpec, Where
from sweeps.addresses import experiment_name, resolve, without_secrets
from sweeps.errors import StoreError, UserError, explain
from sweeps.loading import read_json

TOLERANCE = 1e-9  # Relative difference of equal numbers: another NumPy may add the same values in another order.


@dataclass(frozen=True)
class Origin:
    """The store, without secrets, and what was asked of it: the specification in full; the sweeps whose trials count,
    none meaning those of the whole experiment; settings that trials must have; for a sweep's own table its data set."""

    store: str
    experiment: str
    runs_at: str
    specification: dict[str, Any]
    sweeps: list[str] = field(default_factory=list)
    where: Where = field(default_factory=dict)
    dataset: str = ""

    @classmethod
    def of(cls, uri: str | None, specification: TableSpec, **asked: Any) -> Self:
        address = without_secrets(resolve(uri))
        content = specification.model_dump(mode="json", exclude_defaults=True)
        return cls(address, experiment_name(), store.runs_at(uri), content, **asked)


def make_table(origin: Origin, uri: str | None, results: dict[str, list[SweepResult]]) -> Table:
    """The table of this origin as its runs give it now. `results` keeps a sweep that was read for its other data sets.

    Raises UserError where the sweep, its data set or all trials are gone, where the specification is none, and if the
    store cannot be read.
    """
    try:
        specification = TableSpec.model_validate(origin.specification)
    except ValidationError as error:
        raise UserError(f"its specification: {explain(error, list(TableSpec.model_fields))}") from None
    if specification.per_sweep:
        if len(origin.sweeps) != 1:
            raise UserError(f"its specification is that of one sweep, and it was made of {len(origin.sweeps)}")
        (sweep,) = origin.sweeps
        if sweep not in results:
            results[sweep] = store.read_sweep(uri, sweep)
        result = next((result for result in results[sweep] if result.slug == origin.dataset), None)
        if result is None:
            raise UserError(f"sweep {sweep!r} is no longer one on {origin.dataset!r}")
        table = table_of_sweep(result, specification)
    else:
        table = place_runs(store.read_trials(uri, origin.sweeps), specification, origin.where).table()
    return replace(table, runs_at=origin.runs_at)


def sidecar_of(path: Path) -> Path:
    """The table.json of a table's file or folder, which alone knows the runs behind the table."""
    sidecar = (path if path.is_dir() else path.parent) / "table.json"
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    if not sidecar.is_file():
        raise UserError(f"{sidecar}: no such file, and it is what knows the runs; write it with: cplearn report")
    return sidecar


def sidecars_of(path: str | Path) -> list[Path]:
    """The table.json of every table under a folder, or of the one that a file belongs to; raises UserError if there is
    none."""
    path = Path(path)
    sidecars = sorted(path.rglob("table.json")) if path.is_dir() else [sidecar_of(path)]
    if not sidecars:
        raise UserError(f"{path}: no table.json in it; write the tables with: cplearn report")
    return sidecars


@dataclass(frozen=True)
class Sidecar:
    """A table.json: its table, how that was made, and the text of each file that it gives, by the file's name."""

    table: Table
    about: dict[str, Any]
    texts: dict[str, str]


def read_sidecar(path: Path) -> Sidecar:
    """What a table.json holds. Raises UserError, whatever that is, unless it is a table that can be printed."""
    try:
        document = read_json(path.read_bytes(), str(path))
        table = from_json(document)
        about = {key: value for key, value in document.items() if key not in {"format", "table", "sources"}}
        return Sidecar(table, about, render_all(table, about))
    except UserError:
        raise
    except Exception as error:  # Parts that do not go together fail anywhere.
        raise UserError(f"{path}: is not a table of this program ({type(error).__name__}: {error})") from None


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
    results: dict[str, list[SweepResult]] = {}
    return [_check(sidecar, uri, results) for sidecar in sidecars_of(path)]


def _check(sidecar: Path, uri: str | None, results: dict[str, list[SweepResult]]) -> Checked:
    then = read_sidecar(sidecar)
    try:
        origin = TypeAdapter(Origin).validate_python(then.about.get("made_from"))
    except ValidationError:
        was = "does not say what it was made of, as tables of earlier versions"
        raise UserError(f"{sidecar}: {was}; write it anew with: cplearn report") from None
    try:
        drift = list(_drift(then.table, make_table(origin, uri, results)))
    except StoreError:
        raise
    except UserError as error:
        drift = [f"cannot be made any more: {error}"]
    drift += _misprinted(sidecar, then.texts, then.about.get("program"))
    numbers = sum(cell.number is not None for row in then.table.all_rows for cell in row.cells)
    return Checked(sidecar.parent, numbers, tuple(drift))


def _drift(then: Table, now: Table) -> Iterator[str]:
    changes = [*_moved(then.sources, now.sources), *_changed(then, now), *_rechosen(then, now)]
    yield from changes
    if not changes:
        for part in ("title", "headings", "caption", "statistics", "notes", "origin"):
            if (was := getattr(then, part)) != (should := getattr(now, part)):
                yield f"{part}: {_difference(' '.join(was), ' '.join(should))}"
        for unit in then.compute.keys() | now.compute.keys():
            was, should = (table.compute.get(unit, 0.0) for table in (then, now))
            if not math.isclose(was, should, rel_tol=TOLERANCE):
                yield f"{unit}: the table has {was:.6g}, MLflow gives {should:.6g}"


def _moved(before: Mapping[str, Source], after: Mapping[str, Source]) -> Iterator[str]:
    """How many trials have a result now and had none, as while a sweep goes on; then trials that are no longer behind
    the table, are new behind it, or for which another run speaks."""
    then, now = ({key for key, source in sources.items() if source.status == FINISHED} for sources in (before, after))
    if more := len(now - then):
        runs = "1 run has" if more == 1 else f"{more} runs have"
        yield f"{runs} finished that the table does not have; cplearn report writes it anew"
    for key, seed in sorted({(source.key, source.seed) for source in (*before.values(), *after.values())}):
        was, is_now = before.get(key), after.get(key)
        if was != is_now:
            had = _state(was) if was else "no such trial"
            has = _state(is_now) if is_now else "none that its sweep declares"
            yield f"trial {key}, seed {seed}: the table has {had}, MLflow now {has}"


def _state(source: Source) -> str:
    return f"{source.run_id or 'no run'} ({source.status.lower()})"


def _changed(then: Table, now: Table) -> Iterator[str]:
    """Rows, columns and cells that are others, though made of the same runs; of other runs `_moved` tells."""
    old, new = (
        {(row.block, row.label, column.heading): (row, column, cell) for row, column, cell in table.cells()}
        for table in (then, now)
    )
    for part in (slice(0, 2), slice(2, 3)):  # Rows, then columns.
        before, after = ({name[part] for name in cells} for cells in (old, new))
        for name in [*(before - after), *(after - before)]:
            label = " ".join(filter(None, name))
            yield f"{label}: {'has no trials any more' if name in before else 'is not in the table'}"
    for place in [place for place in old if place in new]:
        (old_row, column, was), (new_row, _, is_now) = old[place], new[place]
        if {*(was.sources or old_row.sources)} != {*(is_now.sources or new_row.sources)}:
            continue
        where = old_row.where(column)
        if not _same(was.number, is_now.number):
            yield f"{where}: the table has {_number(was.number)}, MLflow gives {_number(is_now.number)}"
        elif _printed(was) != _printed(is_now):
            yield f"{where}: {_printed(was)} should be {_printed(is_now)}"


def _rechosen(then: Table, now: Table) -> Iterator[str]:
    choices = {(choice.where, choice.over): choice for choice in now.choices}
    for choice in then.choices:
        new = choices.get((choice.where, choice.over))
        if new is not None and choice.chosen != new.chosen:
            was = f"{choice.where}: {choice.over} = {choice.chosen} was chosen by {choice.criterion}"
            yield f"{was}, MLflow now gives {new.chosen}"


def _misprinted(sidecar: Path, expected: Mapping[str, str], made_by: object) -> Iterator[str]:
    """Lines of the printed files that the numbers in table.json do not give."""
    older = f" (written by {made_by}, this is {program()})" if made_by != program() else ""
    # A table of an earlier version has none of the files that came later.
    later = () if any(sidecar.with_name(name).is_file() for name in LATER_FILES) else LATER_FILES
    for name, text in expected.items():
        path = sidecar.with_name(name)
        if not path.is_file():
            if name not in later:
                yield f"{name}: is missing"
        elif path != sidecar:
            printed = path.read_text(encoding="utf-8", errors="replace").splitlines()
            lines = itertools.zip_longest(printed, text.splitlines(), fillvalue="")
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
    return all(
        a == b
        or (isinstance(a, float) and isinstance(b, float) and math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=1e-12))
        for a, b in zip(astuple(first), astuple(second), strict=True)
    )


def _number(number: Number | None) -> str:
    return f"{number.mean:.6g} (n = {number.n})" if number else "no number"


def _printed(cell: Cell) -> str:
    return f"{cell.printed!r}{' in bold' if cell.bold else ''}"
