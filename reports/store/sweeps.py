"""What tables are made of: the trials that a sweep declares, with the runs that count for them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from reports.store.connection import artifact_reader, open_experiment, readable, search, shown
from reports.store.trials import newest, record
from sweeps.errors import UserError
from sweeps.record import MANIFEST_FILE, PARAMS, SWEEP, Manifest, Tag, tag_is

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

COLUMNS = ("run_id", "key", "status", "sweep", "started", "dataset", "fingerprint", "role", "label", "seed")


@dataclass(frozen=True)
class SweepResult:
    """What a sweep has given on one data set.

    `axes` maps dotted settings to their values in the order of the table. `runs` has one row for each trial that the
    sweep declares, run or not, in the order of the manifest, with the columns

    - `run_id`, `key`, `status`: FINISHED, FAILED, KILLED, RUNNING, or MISSING where no run has the trial's key. Of
      several runs of a key the newest finished one counts, else the newest;
    - `sweep`: the sweep under which that run was made, which may be another; `started`: UTC, ISO 8601;
    - `dataset`, `fingerprint`, `role` (trial or baseline), `label`, `seed`;
    - one column for each axis under its dotted name, None for baselines;
    - `error`: the end of the failure's message;
    - `params.*` and `tags.*`: text, as logged (of the tags, those that start with `cplearn.`);
    - each metric under its own name, `probe/accuracy` for instance: the last value that was logged.

    `search` is what the sweep file says of a search, None where a grid or random draws were run.
    """

    sweep: str
    description: str
    dataset: str
    slug: str
    axes: dict[str, list[Any]]
    seeds: list[int]
    about: dict[str, Any]
    parent: str
    runs: pd.DataFrame = field(repr=False)
    search: dict[str, Any] | None = None


def list_sweeps(uri: str | None = None, datasets: Collection[str] | None = None) -> list[str]:
    """Names of the sweeps in the store, the newest first; all, or those run on one of the data sets (slugs).

    Raises UserError if the store cannot be read or holds no sweep.
    """

    def is_wanted(run: Run) -> bool:
        return datasets is None or not set(datasets).isdisjoint(run.data.tags.get(Tag.DATASET, "").split(", "))

    return [name for name, runs in _parents(uri, *open_experiment(uri)).items() if any(map(is_wanted, runs))]


def read_sweep(uri: str | None, name: str, datasets: Collection[str] | None = None) -> list[SweepResult]:
    """The results of a sweep, one for each data set it was run on, or for those whose slugs are given.

    Where several parent runs have the sweep's name, each data set is taken from the newest one that declares it.

    Raises UserError for an unknown name or data set (with the known ones), and if the store cannot be read.
    """
    client, experiment = open_experiment(uri)
    parents = _parents(uri, client, experiment)
    if name not in parents:
        near = difflib.get_close_matches(name, parents, 3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise UserError(f"no sweep {name!r} in {shown(uri)}; {hint}known sweeps: {', '.join(sorted(parents))}")
    declared: dict[str, tuple[str, Manifest]] = {}
    read = artifact_reader(uri)
    for run_id in [parent.info.run_id for parent in parents[name]]:
        # A sweep that was stopped at once has none.
        if (content := read(run_id, MANIFEST_FILE)) is not None:
            manifest = Manifest.read(content, f"run {run_id}")
            for dataset in manifest.datasets:
                declared.setdefault(dataset.slug, (run_id, manifest))
    if not declared:
        raise UserError(f"sweep {name!r} in {shown(uri)} has no {MANIFEST_FILE}; run the sweep again to write it")
    if unknown := sorted(set(datasets or ()) - declared.keys()):
        raise UserError(f"sweep {name!r} was not run on {unknown[0]!r}, only on: {', '.join(sorted(declared))}")
    wanted = {slug: declared[slug] for slug in sorted(declared) if datasets is None or slug in datasets}
    keys = {t.key for slug, (_, manifest) in wanted.items() for t in manifest.trials if t.dataset == slug}
    with readable(shown(uri)):
        runs = newest(client, experiment, keys, record)
    return [_result(slug, parent, manifest, runs) for slug, (parent, manifest) in wanted.items()]


def read_trials(uri: str | None, sweeps: Collection[str] = ()) -> pd.DataFrame:
    """One row for each trial of some sweeps, or of the experiment: the columns of `SweepResult.runs`, axes apart.

    Of the whole experiment these are the trials that have a run. Of sweeps also those that were declared and have none:
    their settings are those of the same point at another seed, or if no seed has a run, unknown.

    Raises UserError as `read_sweep` does, and where the experiment holds no trial.
    """
    if sweeps:
        frames = []
        for result in (result for name in sweeps for result in read_sweep(uri, name)):
            runs = result.runs
            settings = [name for name in map(str, runs) if name.startswith(PARAMS) or name == Tag.NUMERICS.column]
            settings = [name for name in settings if name != f"{PARAMS}seed"]
            same_point = runs.groupby("label")[settings].transform("first")
            frames.append(runs.drop(columns=list(result.axes)).assign(**runs[settings].fillna(same_point)))
        trials = pd.concat(frames, ignore_index=True)
        # A trial that several sweeps share is one trial.
        return trials.drop_duplicates("key", ignore_index=True)
    client, experiment = open_experiment(uri)
    with readable(shown(uri)):
        rows = newest(client, experiment, None, _placed_record)
    if not rows:
        raise UserError(f"{shown(uri)} holds no trial yet; run a sweep, for instance: cplearn sweep sweeps/beta.yaml")
    return pd.DataFrame.from_records([{"key": key, **row} for key, row in rows.items()])


def _placed_record(run: Run) -> dict[str, Any]:
    """The record of a trial with what a manifest would say of it."""
    tags = {tag.short: run.data.tags.get(tag) for tag in (Tag.DATASET, Tag.ROLE, Tag.LABEL)}
    return {**tags, "seed": int(run.data.params.get("seed", 0)), **record(run)}


def _parents(uri: str | None, client: MlflowClient, experiment: str) -> dict[str, list[Run]]:
    """The parent runs of each sweep's name; raises UserError if there is none.

    The one that was worked on last comes first: a parent goes on when its sweep is invoked again.
    """
    parents: dict[str, list[Run]] = {}
    with readable(shown(uri)):
        runs = list(search(client, experiment, tag_is(Tag.KIND, SWEEP)))
        runs.sort(key=lambda run: max(run.info.start_time, run.info.end_time or 0), reverse=True)
    for run in runs:
        parents.setdefault(run.data.tags.get(Tag.SWEEP, ""), []).append(run)
    if not parents:
        raise UserError(f"{shown(uri)} holds no sweep yet; run one, for instance: cplearn sweep sweeps/beta.yaml")
    return parents


def _result(slug: str, parent: str, manifest: Manifest, runs: Mapping[str, dict[str, Any]]) -> SweepResult:
    about = next(dataset for dataset in manifest.datasets if dataset.slug == slug)
    declared = [trial for trial in manifest.trials if trial.dataset == slug]
    frame = pd.DataFrame.from_records(
        {"status": "MISSING", "fingerprint": about.fingerprint, **vars(trial), **runs.get(trial.key, {})}
        for trial in declared
    )
    for axis in manifest.axes:  # Beside the None of the baselines pandas would turn integers into floats.
        frame[axis] = pd.Series([trial.point.get(axis) for trial in declared], dtype=object)
    columns = [*COLUMNS, *manifest.axes, "error"]
    logged = [name for name in map(str, frame.columns) if name not in (*columns, "point")]
    logged.sort(key=lambda name: (not name.startswith(PARAMS), not name.startswith("tags."), name))
    return SweepResult(
        sweep=manifest.sweep,
        description=manifest.description,
        dataset=about.name,
        slug=slug,
        axes=manifest.axes,
        seeds=manifest.seeds,
        about=vars(about),
        parent=parent,
        runs=frame.reindex(columns=[*columns, *logged]),
        search=manifest.search,
    )
