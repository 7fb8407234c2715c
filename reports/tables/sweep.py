"""The table of one sweep on one data set: its specification, made from the sweep's manifest, and its rows in order."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from reports import spelling
from reports.metrics import METRICS
from reports.statistics import compute, inference
from reports.store import SweepResult
from reports.tables import spec
from reports.tables.grid import Grid
from reports.tables.model import FINISHED, Table, metric_values, read_trials
from reports.tables.spec import ArmAxes, Axis, Dimension, Shown, TableSpec
from reports.tables.words import Subject
from sweeps.record import BASELINE, PARAMS, TIME, UNSEEN, Tag

NO_LABELS = (
    "No image has a label, so accuracies, AMI, NMI, ARI and k-means against classes are not known (a dash); compare "
    "rows by view information, which needs none, and see that codes in use and ranks are not low."
)
MOST_SUGGESTED = 20  # Points of a search in its table, which has the best ones first; all are in runs.csv.
MOST_AXES_OF_ARMS = 2  # Axes that only some arms have and that have a column each; more share one.
WITHOUT_LABELS = ("select/view_information", "collapse/codes_used", "select/rankme", "collapse/effective_rank")
"""What the table of a sweep on images without labels shows, before the first of the metrics that need labels."""
DASHED = ("probe/accuracy", "codes/ami")  # These of the metrics that need labels have a column of dashes then.


def table_of_sweep(result: SweepResult, table: TableSpec | None = None) -> Table:
    """The table of a sweep over the seeds that it declares. Numbers come from finished runs only.

    Best values are marked among the sweep's points: baselines do not compete, nor do means over fewer seeds. Columns
    without any number are left out, but for `DASHED` where no image has a label.
    """
    table = table or spec.read("sweep")
    runs = number_rows(result)
    suggested = runs.loc[runs["role"] != BASELINE, "row"].nunique() if result.search else 0
    runs = runs[runs["row"] < runs["row"].nunique() - max(0, suggested - MOST_SUGGESTED)]
    runs = runs.sort_values(["row", "seed"], kind="stable")
    with_axes = specification(result, table)
    trials, values = read_trials(runs, list(result.axes)), metric_values(runs, list(with_axes.shown))
    grid = Grid(with_axes, runs, trials, values, () if has_labels(result) else DASHED)
    made = grid.table(_subject(result, suggested))
    finished = result.runs[result.runs["status"] == FINISHED]
    return dataclasses.replace(made, spec=table.hash, compute=compute.device_hours(finished))


def specification(result: SweepResult, table: TableSpec) -> TableSpec:
    """A specification in which the axes of a sweep are the dimensions of the rows, and the objectives of a search the
    first columns."""
    points = result.runs[result.runs["role"] != BASELINE]
    of_arms = tuple(axis for axis, values in result.axes.items() if None not in values and points[axis].isna().any())
    of_arms = of_arms if len(of_arms) > MOST_AXES_OF_ARMS else ()
    headings = dict(zip(result.axes, spelling.headings(list(result.axes)), strict=True))
    rows: list[Dimension] = [Axis(key=axis, heading=headings[axis]) for axis in result.axes if axis not in of_arms]
    if of_arms:
        rows.append(ArmAxes(key="settings", heading="Settings", keys=of_arms))
    better: dict[str, Any] = {"maximize": "higher", "minimize": "lower"}
    objectives = [
        Shown(name=name) if name in METRICS else Shown(name=name, heading=name, better=better[direction])
        for name, direction in (result.search["objectives"] if result.search else {}).items()
    ]
    listed = list(table.metrics)
    if not has_labels(result):
        usual = {shown.name: shown for shown in listed}
        listed = [usual.get(name) or Shown(name=name) for name in (*WITHOUT_LABELS, *DASHED)]
    changes = {
        "rows": rows or [Axis(key="label", heading="trial")],
        "metrics": [*objectives, *listed],
        "baselines": _baselines(result.runs),
    }
    return TableSpec.model_construct(**{**dict(table), **changes})


def has_labels(result: SweepResult) -> bool:
    """Whether any image of the data set has a label."""
    return result.about.get("classes") != 0


def number_rows(result: SweepResult) -> pd.DataFrame:
    """The runs with a column `row`, the table row of each trial: baselines first, in the order of the manifest, then
    points, in the order of the axes' values, or those of a search the best first."""
    runs, baselines = result.runs, _baselines(result.runs)
    is_point = runs["role"] != BASELINE
    keys = [is_point, runs["label"].map({name: place for place, name in enumerate(baselines)}).mask(is_point, 0)]
    for axis, values in result.axes.items():
        texts = runs[axis].map(repr).where(is_point, "")  # They tell apart values that the axis does not list.
        order = {repr(value): place for place, value in enumerate(values)}
        keys += [texts.map(order).fillna(len(order)), texts]
    numbered = runs.assign(row=runs.groupby(keys).ngroup())
    if not result.search:
        return numbered
    objectives: dict[str, str] = result.search["objectives"]
    by_row, first = inference.by_row(numbered, list(objectives)), len(baselines)
    means = by_row.mean().where(by_row.count() == len(result.seeds)).iloc[first:]
    best = {row: first + number for number, row in enumerate(inference.best_first(means, objectives))}
    return numbered.assign(row=numbered["row"].map(lambda row: best.get(row, row)))


def _baselines(runs: pd.DataFrame) -> list[str]:
    """The names of the baselines, in the order of the manifest."""
    return list(dict.fromkeys(runs.loc[runs["role"] == BASELINE, "label"]))


def shared_settings(result: SweepResult) -> dict[str, str]:
    """The settings that are equal in all finished trials of the sweep, baselines aside."""
    runs = result.runs[(result.runs["status"] == FINISHED) & (result.runs["role"] != BASELINE)]
    names = [name for name in map(str, runs.columns) if name.startswith(PARAMS)]
    equal = [name for name in names if runs[name].nunique() == 1 and runs[name].notna().all()]
    return {name.removeprefix(PARAMS): str(runs[name].iloc[0]) for name in equal}


def commits(runs: pd.DataFrame) -> pd.Series:
    """The commit of each run, with a word where the checkout had edits; empty if no run has any."""
    if Tag.GIT_COMMIT.column not in runs:
        return pd.Series(dtype=object)
    edited = runs.reindex(columns=[Tag.GIT_EDITED.column])[Tag.GIT_EDITED.column]
    return runs[Tag.GIT_COMMIT.column] + edited.map({"true": " with uncommitted edits"}).fillna("")


def versions(runs: pd.DataFrame) -> pd.Series:
    """The versions of packages of each run that says them, in words."""
    texts = runs.reindex(columns=[Tag.VERSIONS.column])[Tag.VERSIONS.column].dropna()
    return texts.map(lambda text: ", ".join(f"{name} {version}" for name, version in json.loads(text).items()))


def _subject(result: SweepResult, suggested: int) -> Subject:
    dataset = _dataset_name(result)
    images = f" ({result.about['test_images']:,} images)" if "test_images" in result.about else ""
    epochs = shared_settings(result).get("epochs")
    last = "one epoch" if epochs == "1" else f"the last of {epochs} epochs" if epochs else "the last epoch"
    seen = [name for name in (result.search or {}).get("objectives", ()) if not name.startswith((*UNSEEN, TIME))]
    cut = f"The best {MOST_SUGGESTED} of {suggested} suggestions are shown; runs.csv has all."
    return Subject(
        name=result.sweep,
        title=f"{result.sweep} on {dataset}",
        about=f"Sweep {result.sweep} on {dataset}" + (f": {result.description}" if result.description else ""),
        seeds=tuple(result.seeds),
        dataset=dataset,
        slug=result.slug,
        notes=(*((cut,) if suggested > MOST_SUGGESTED else ()), *((NO_LABELS,) if not has_labels(result) else ())),
        origin=tuple(_origin(result)),
        facts={
            "measured": f"of the test split{images} after {last}",
            "search": result.search,
            "seen": seen,
            "has_labels": has_labels(result),
            "has_points": bool(result.axes) and any(result.runs["role"] != BASELINE),
        },
    )


def _origin(result: SweepResult) -> Iterator[str]:
    finished = result.runs[result.runs["status"] == FINISHED]
    yield f"Data: {_dataset_name(result)}, fingerprint {result.about['fingerprint']}."
    if len(code := commits(finished).dropna()):
        yield f"Code: commit {', '.join(sorted(code.unique()))}."
    if Tag.DEVICE.column in finished:
        yield f"Device: {', '.join(sorted(finished[Tag.DEVICE.column].dropna().unique()))}."
    shared = shared_settings(result)
    if listed := [f"{k}={value}" for k, value in shared.items() if k not in ("dataset", "seed", *result.axes)]:
        yield f"Settings that all trials of the sweep share: {', '.join(listed)}."


def _dataset_name(result: SweepResult) -> str:
    """`folder:/data/my set` by its last part, since the rest of the path means nothing to a reader, and the digits of
    its short name, which tell it from others."""
    folder = result.dataset.partition(":")[2].rsplit("/", 1)[-1]
    return f"{folder}-{result.slug.rpartition('-')[2]}" if folder else result.dataset
