"""The report of a sweep on one data set as one HTML file that needs nothing beside it."""

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reports.figures import Plot, canvas
from reports.render import parts
from reports.render.files import to_html_rows
from reports.statistics import findings
from reports.store import SweepResult
from reports.tables import number_rows
from reports.tables.model import FINISHED, STATES, Table
from reports.tables.sweep import commits, has_labels, shared_settings, versions
from sweeps.record import HARDWARE, WALL_SECONDS

MOST_BYTES = 3_500_000  # Most bytes of figures within a page; those beyond are named only.
SHOWN_DPI = 130  # Dots of a figure that a page shows as an inch.


def render(
    result: SweepResult,
    table: Table,
    plots: Sequence[Plot],
    figures: Path,
    address: str | None,
    notes: Sequence[str] = (),
) -> str:
    """The page. `figures` is the folder with the PNG of each plot; `address`, before a run's id, leads to the run in
    MLflow, None where MLflow has no server; `notes` say what the figures lack. Equal runs give equal bytes."""
    runs = number_rows(result)
    names = canvas.names(result, runs)
    template = parts.environment(autoescape=True).get_template("report.html.j2")
    return template.render(
        result=result,
        dataset=table.dataset,
        states=sorted(Counter(map(_state, runs["status"])).items()),
        facts=list(facts(result)),
        shared=sorted(shared_settings(result).items()),
        findings=[
            *([] if has_labels(result) else findings.choice_without_labels(runs, names)),
            *findings.findings(runs, names, result.about.get("test_images")),
        ],
        table=to_html_rows(table),
        table_caption=" ".join(table.caption + table.statistics),
        table_notes=table.notes,
        plots=list(zip(plots, _pictures(plots, figures), strict=True)),
        plot_notes=notes,
        gaps=list(findings.gaps(runs, names)),
        runs=list(_runs(runs, names)),
        address=address,
    )


def facts(result: SweepResult) -> Iterator[tuple[str, str]]:
    """What was run, on what, with what: pairs of a name and a text. Several values stand beside each other with how
    many trials have each."""
    runs, about = result.runs, result.about
    finished = runs[runs["status"] == FINISHED]
    size = f"{about['train_images']:,} training and {about['test_images']:,} test images"
    classes = "" if about.get("classes") is None else f", {about['classes'] or 'no'} classes"
    yield "Data", f"{result.dataset} ({size}{classes}), fingerprint {about['fingerprint']}"
    if len(code := commits(runs)):
        yield "Commit", _counted(code)
    for tag in HARDWARE:
        if tag.column in runs:
            yield tag.short.replace("_", " ").capitalize(), _counted(runs[tag.column])
    if len(packages := versions(runs)):
        yield "Versions", _counted(packages)
    times = finished.reindex(columns=[WALL_SECONDS])[WALL_SECONDS].dropna()
    if len(times):
        total, usual = duration(times.sum()), duration(times.median())
        yield "Time", f"{total} of training and evaluation, all trials added up; {usual} a trial (median)"
    if started := sorted(runs["started"].dropna()):
        yield "Started", started[0] if started[0] == started[-1] else f"{started[0]} to {started[-1]} (UTC)"
    elsewhere = finished.loc[finished["sweep"] != result.sweep, "sweep"].dropna()
    if len(elsewhere):
        yield "Reused", f"trials of other sweeps: {_counted(elsewhere)}"
    yield "Sweep's run", result.parent


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _state(status: str) -> str:
    return "finished" if status == FINISHED else STATES[status]


def _counted(values: pd.Series) -> str:
    counts = values.dropna().value_counts().sort_index()
    if len(counts) == 1:
        return str(counts.index[0])
    return "; ".join(f"{value} ({count} {'trial' if count == 1 else 'trials'})" for value, count in counts.items())


def _pictures(plots: Sequence[Plot], folder: Path) -> Iterator[tuple[str, int] | None]:
    """Each picture in base64 and how wide to show it, so that letters have one size; None if there is no room."""
    left = MOST_BYTES
    for plot in plots:
        content = (folder / f"{plot.name}.png").read_bytes()
        left -= len(content)
        # A PNG says its width in its first header.
        width = int.from_bytes(content[16:20], "big") * SHOWN_DPI // canvas.DPI
        yield (base64.b64encode(content).decode(), width) if left >= 0 else None


def _runs(runs: pd.DataFrame, names: Mapping[Any, str]) -> Iterator[tuple[str, int, str, str | None, str]]:
    """Row, seed, state, run id and time of each trial."""
    columns = ["row", "seed", "status", "run_id", WALL_SECONDS]
    ordered = runs.sort_values(["row", "seed"], kind="stable").reindex(columns=columns).astype(object)
    for row, seed, status, run_id, seconds in ordered.to_numpy().tolist():
        time = "" if pd.isna(seconds) else duration(seconds)
        yield names[row], seed, _state(status), None if pd.isna(run_id) else run_id, time
