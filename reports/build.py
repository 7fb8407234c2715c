"""From a sweep's name to its files: tables, runs and figures of each data set."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reports import figures, page, render, store, tables
from reports.errors import ReportError
from reports.store import SweepResult
from reports.tables import Table

WRITTEN = ".written"
"""In the folder of figures: a list of the files in it that are ours."""


@dataclass(frozen=True)
class Report:
    """What was written for one data set, `dataset` being its slug, the table for showing, and the sweep's run."""

    sweep: str
    dataset: str
    parent: str
    folder: Path
    files: tuple[Path, ...]
    table: Table


def build(
    uri: str | None, sweep: str, out: str | Path = "results", datasets: Collection[str] | None = None
) -> list[Report]:
    """Write <out>/<sweep>/<data set>/{report.html, table.md, table.tex, runs.csv, figures/*} of each data set.

    `datasets` are slugs; None means all. Each file is complete whenever it is there: it is written elsewhere and moved.

    Raises ReportError for an unknown sweep or data set, where no trial has finished, and where files cannot be written.
    """
    results = store.read_sweep(uri, sweep, datasets)
    states = pd.concat(result.runs["status"] for result in results)
    if not (states == "FINISHED").any():
        counts = states.map(tables.STATES).value_counts()
        told = ", ".join(f"{count} {state}" for state, count in counts.items())
        raise ReportError(f"sweep {sweep!r} has no finished trial to report on ({told})")
    try:
        reader = store.artifact_reader(uri)
        address = store.web_address(uri, results[0].parent)
        return [_write(result, Path(out), reader, address) for result in results]
    except OSError as error:
        raise ReportError(f"cannot write to {error.filename or out}: {error.strerror or error}") from None


def _write(result: SweepResult, out: Path, reader: figures.Reader, address: str | None) -> Report:
    for name in (result.sweep, result.slug):
        if Path(name).name != name:
            raise ReportError(f"{name!r} cannot be a folder's name; rename the sweep or the data set")
    folder = out / result.sweep / result.slug
    folder.mkdir(parents=True, exist_ok=True)
    table = tables.make_table(result)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{result.slug}-") as scratch:
        draft = Path(scratch)
        (draft / "figures").mkdir()
        (draft / "table.md").write_text(render.to_markdown(table), encoding="utf-8")
        (draft / "table.tex").write_text(render.to_latex(table), encoding="utf-8")
        result.runs.to_csv(draft / "runs.csv", index=False, lineterminator="\n")
        plots = list(figures.plots(result, reader))
        for plot in plots:
            plot.write(draft / "figures")
        html = page.render(result, table, plots, draft / "figures", address)
        (draft / "report.html").write_text(html, encoding="utf-8")
        (folder / "figures").mkdir(exist_ok=True)
        made = sorted(path.relative_to(draft) for path in draft.rglob("*") if path.is_file())
        for path in made:
            os.replace(draft / path, folder / path)
        _forget(folder / "figures", {path.name for path in made if path.parent.name == "figures"})
    return Report(result.sweep, result.slug, result.parent, folder, tuple(folder / path for path in made), table)


def _forget(folder: Path, written: Collection[str]) -> None:
    """Remove the figures that an earlier report wrote here and this one did not; what was not written here stays."""
    record = folder / WRITTEN
    earlier = record.read_text(encoding="utf-8").split("\n") if record.is_file() else []
    for name in earlier:
        # A record that someone has edited must not lead out of the folder.
        if name and name not in written and Path(name).name == name:
            (folder / name).unlink(missing_ok=True)
    record.write_text("\n".join(sorted(written)) + "\n", encoding="utf-8")
