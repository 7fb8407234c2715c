"""From a sweep's name to its files: tables, runs and figures of each data set; and the files of a paper's table. A
digest of all that a report is made of is kept beside it, so that it need not be written again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from reports import checklist, spelling, store
from reports.provenance.verification import Origin
from reports.render.files import program, render_all
from reports.store import SweepResult
from reports.tables import place_runs, spec, table_of_sweep
from reports.tables.model import FINISHED, STATES, Table
from reports.tables.spec import TableSpec, Where
from sweeps.errors import UserError
from sweeps.settings import code_state

if TYPE_CHECKING:
    from reports.figures import Importance, Reader

# Matplotlib takes a second to import: where no figure is drawn, figures and the page that shows them are not needed.

RECORD = ".inputs.json"
LIBRARIES = ("cplearn-sweeps", "jinja2", "matplotlib", "numpy", "optuna", "pandas", "scipy", "scikit-learn")
"""Those that have a part in tables, figures and pages."""
WRITTEN = ".written"  # In the folder of figures: a list of the files in it that are ours.


@dataclass(frozen=True)
class Report:
    """What was written for one data set, `dataset` being its slug, the table for showing, and the sweep's run. A table
    over several data sets has the name of its specification as `sweep`, and no `dataset`; a run only if a sweep asks
    for it. `notes` are sentences on what is lacking. `inputs` is a digest of what it was made of, empty where something
    is lacking, and `is_new` says whether it was written now."""

    sweep: str
    dataset: str
    parent: str
    folder: Path
    files: tuple[Path, ...]
    table: Table
    notes: tuple[str, ...] = ()
    inputs: str = ""
    is_new: bool = True


def build(
    uri: str | None,
    sweep: str,
    out: str | Path = "results",
    datasets: Collection[str] | None = None,
    importance: Importance | None = None,
) -> list[Report]:
    """Write <out>/<sweep>/<data set>/{report.html, table.*, runs.csv, figures/*} for each data set of a sweep, and
    <out>/<sweep>/tables/<name>/ for each table that it asks for; the latter come last. What would be written anew from
    the same inputs as the last time is left as it is.

    `datasets` are slugs; None means all. `importance` computes which setting matters; None leaves that figure out. Each
    file is complete whenever it is there: it is written elsewhere and moved.

    Raises UserError for an unknown sweep or data set, where no trial has finished, and where files cannot be written.
    """
    results = store.read_sweep(uri, sweep, datasets)
    states = pd.concat(result.runs["status"] for result in results)
    if not (states == FINISHED).any():
        listed = ", ".join(f"{count} {state}" for state, count in states.map(STATES).value_counts().items())
        raise UserError(f"sweep {sweep!r} has no finished trial to report on ({listed})")
    specification = spec.read("sweep")
    origin = Origin.of(uri, specification, sweeps=[sweep])
    reader = store.artifact_reader(uri)
    written = [
        _write(result, Path(out), reader, specification, replace(origin, dataset=result.slug), importance)
        for result in results
    ]
    for name in dict.fromkeys(name for result in results for name in result.tables):
        try:
            made = build_table(uri, name, Path(out) / sweep, [sweep])
            written.append(replace(made, parent=results[0].parent))
        except UserError as error:  # A table that cannot be filled yet must not keep the sweep from its report.
            written[-1] = replace(written[-1], notes=(*written[-1].notes, str(error)))
    return written


def build_table(
    uri: str | None,
    name: str,
    out: str | Path = "results",
    sweeps: Sequence[str] | None = None,
    where: Where | None = None,
) -> Report:
    """Write <out>/tables/<name>/table.{md, tex, html, csv, json} from the trials of the experiment, or of some sweeps;
    of a table about grids or over three data sets or more also figures/*.

    `name` is that of a specification that comes with the program, or the path of a YAML file; `where` maps settings to
    the values that count.

    Raises UserError for an unknown or wrong specification, for trials that do not fit it, and where files cannot be
    written.
    """
    from reports import figures

    specification = spec.read(name)
    if specification.per_sweep:
        raise UserError(f"table {name!r} is that of every sweep; write it with: cplearn report SWEEP")
    origin = Origin.of(uri, specification, sweeps=list(sweeps or ()), where=where or {})
    grid = place_runs(store.read_trials(uri, origin.sweeps), specification, where)
    folder = Path(out) / "tables" / specification.table
    with _drafted(folder) as draft:
        table = write_table(grid.table(), draft, origin)
        plots = list(figures.table_plots(table, grid))
        has_figures = bool(plots) or (folder / "figures").is_dir()
        if has_figures:
            (draft / "figures").mkdir()
        for plot in plots:
            plot.write(draft / "figures")
        made = _files(draft)
        if has_figures:
            _record_figures(draft, folder)
    return Report(specification.table, "", "", folder, tuple(folder / path for path in made), table)


def build_checklist(uri: str | None, sweeps: Sequence[str], out: str | Path = "results") -> Path:
    """Write <out>/checklist.{md, tex} on some sweeps, or of one <out>/<sweep>/checklist.{md, tex}; returns its folder.

    Raises UserError as `build` does."""
    results = [result for name in sweeps for result in store.read_sweep(uri, name)]
    texts = checklist.checklist(results, store.read_runs(uri))
    folder = Path(out, *(sweeps if len(sweeps) == 1 else ()))
    with _drafted(folder) as draft:
        for name, text in texts.items():
            (draft / name).write_text(text, encoding="utf-8")
    return folder


def write_table(table: Table, folder: Path, origin: Origin) -> Table:
    """Write the files of a table and its numbers; returns the table, which then knows where its runs are shown."""
    table = replace(table, runs_at=origin.runs_at)
    about = {"program": program(), "made_from": asdict(origin)}
    for name, content in render_all(table, about).items():
        (folder / name).write_text(content, encoding="utf-8")
    return table


def _write(
    result: SweepResult,
    out: Path,
    reader: Reader,
    specification: TableSpec,
    origin: Origin,
    importance: Importance | None,
) -> Report:
    for name in (result.sweep, result.slug):
        if Path(name).name != name or name in ("", ".."):
            raise UserError(f"{name!r} cannot be a folder's name; rename the sweep or the data set")
    folder = out / result.sweep / result.slug
    table = table_of_sweep(result, specification)
    inputs = inputs_of(result, asdict(origin) | {"importance": importance is not None})
    if before := kept(folder, inputs):
        table = replace(table, runs_at=origin.runs_at)
        return Report(result.sweep, result.slug, result.parent, folder, before, table, (), inputs, is_new=False)
    from reports import figures
    from reports.render import page

    with _drafted(folder) as draft:
        (draft / "figures").mkdir()
        table = write_table(table, draft, origin)
        (draft / "runs.csv").write_text(spelling.frame_text(result.runs), encoding="utf-8")
        shown = figures.read_samples(result, reader)
        plots, notes = list(figures.plots(result, shown, importance)), tuple(figures.notes(shown))
        for plot in plots:
            plot.write(draft / "figures")
        html = page.render(result, table, plots, draft / "figures", origin.runs_at or None, notes)
        (draft / "report.html").write_text(html, encoding="utf-8")
        made = _files(draft)
        _record_figures(draft, folder)
    files = tuple(folder / path for path in made)
    if notes:  # What is lacking may be there the next time.
        inputs = ""
    else:
        keep(folder, inputs, files)
    return Report(result.sweep, result.slug, result.parent, folder, files, table, notes, inputs)


@contextmanager
def _drafted(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files move to `folder` once all of them are written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            yield (draft := Path(scratch))
            for path in _files(draft):
                (folder / path).parent.mkdir(exist_ok=True)
                os.replace(draft / path, folder / path)
    except OSError as error:
        raise UserError(f"cannot write to {error.filename or folder}: {error.strerror or error}") from None


def _files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _record_figures(draft: Path, folder: Path) -> None:
    """Write down which figures of a draft are ours, and remove those that an earlier report wrote and this one does
    not; what was not written here stays."""
    pictures = sorted(path.name for path in _files(draft) if path.parent.name == "figures")
    record = folder / "figures" / WRITTEN
    for name in record.read_text(encoding="utf-8").split("\n") if record.is_file() else []:
        # A record that someone has edited must not lead out of the folder.
        if name and name not in pictures and Path(name).name == name:
            record.with_name(name).unlink(missing_ok=True)
    (draft / "figures" / WRITTEN).write_text("\n".join(pictures) + "\n", encoding="utf-8")


def inputs_of(result: SweepResult, origin: dict[str, Any]) -> str:
    """A digest of all that the report of a sweep on a data set is made of: its runs, the program, and the libraries.

    The artifacts of runs are not read for it: a run that has finished keeps them.
    """
    facts = {**vars(result), "runs": spelling.frame_text(result.runs)}
    state = code_state(("reports", "sweeps"), LIBRARIES)
    return _digest(json.dumps([facts, origin, state], sort_keys=True, default=str).encode())


def kept(folder: Path, inputs: str) -> tuple[Path, ...] | None:
    """The files of the report in a folder, if it was made of these inputs and none of them has been changed since."""
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files = {folder / name: digest for name, digest in record["files"].items()}
        if record["inputs"] == inputs and all(_digest(path.read_bytes()) == files[path] for path in files):
            return tuple(files)
    return None


def keep(folder: Path, inputs: str, files: Sequence[Path]) -> None:
    """Write down what a report was made of, and digests of its files; where that cannot be done, it is made anew."""
    digests = {path.relative_to(folder).as_posix(): _digest(path.read_bytes()) for path in files}
    with suppress(OSError):
        record = json.dumps({"inputs": inputs, "files": digests}, indent=1)
        (folder / RECORD).write_text(record + "\n", encoding="utf-8")


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
