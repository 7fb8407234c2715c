"""What tables are made of: the trials that a sweep declares, with the runs that count for them."""

from __future__ import annotations

import difflib
import json
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from reports.store.connection import open_experiment, readable, search, shown
from reports.store.trials import newest, placed, record
from sweeps.errors import UserError
from sweeps.record import MANIFEST_FILE, PARAMS, SWEEP, Manifest, Tag, tag_is

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


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

    def used(run: Run) -> set[str]:
        return set(run.data.tags.get(Tag.DATASET, "").split(", "))

    client, experiment = open_experiment(uri)
    with readable(uri):
        parents = _parents(client, experiment, uri)
    return [name for name, runs in parents.items() if datasets is None or any(used(r) & set(datasets) for r in runs)]


def read_sweep(uri: str | None, name: str, datasets: Collection[str] | None = None) -> list[SweepResult]:
    """The results of a sweep, one for each data set it was run on, or for those whose slugs are given.

    Where several parent runs have the sweep's name, each data set is taken from the newest one that declares it.

    Raises UserError for an unknown name or data set (with the known ones), and if the store cannot be read.
    """
    client, experiment = open_experiment(uri)
    with readable(uri):
        parents = _parents(client, experiment, uri)
        if name not in parents:
            near = difflib.get_close_matches(name, parents, 3, cutoff=0.5)
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise UserError(f"no sweep {name!r} in {shown(uri)}; {hint}known sweeps: {', '.join(sorted(parents))}")
        declared: dict[str, tuple[str, Manifest]] = {}
        for parent in parents[name]:
            manifest = _manifest(client, parent.info.run_id)
            if manifest is not None:
                for use in manifest.datasets:
                    declared.setdefault(use.slug, (parent.info.run_id, manifest))
        if not declared:
            raise UserError(f"sweep {name!r} in {shown(uri)} has no {MANIFEST_FILE}; run the sweep again to write it")
        if unknown := sorted(set(datasets or ()) - declared.keys()):
            raise UserError(f"sweep {name!r} was not run on {unknown[0]!r}, only on: {', '.join(sorted(declared))}")
        wanted = {slug: declared[slug] for slug in declared if datasets is None or slug in datasets}
        keys = {trial.key for slug, (_, manifest) in wanted.items() for trial in manifest.trials_on(slug)}
        runs = newest(client, experiment, keys, record)
    return [_result(slug, parent, manifest, runs) for slug, (parent, manifest) in sorted(wanted.items())]


def read_trials(uri: str | None, sweeps: Collection[str] | None = None) -> pd.DataFrame:
    """One row for each trial of the experiment, or of some sweeps: the columns of `SweepResult.runs`, axes apart.

    Of the whole experiment these are the trials that have a run. Of sweeps also those that were declared and have none:
    their settings are those of the same point at another seed, or if no seed has a run, unknown.

    Raises UserError as `read_sweep` does, and where the experiment holds no trial.
    """
    if sweeps is not None:
        frames = []
        for result in (result for name in sweeps for result in read_sweep(uri, name)):
            settings = [
                name
                for name in map(str, result.runs)
                if (name.startswith(PARAMS) and name != f"{PARAMS}seed") or name == Tag.NUMERICS.column
            ]
            same_point = result.runs.groupby("label")[settings].transform("first")
            frames.append(
                result.runs.drop(columns=list(result.axes)).assign(**result.runs[settings].fillna(same_point))
            )
        trials = pd.concat(frames, ignore_index=True)
        # A trial that several sweeps share is one trial.
        return trials.drop_duplicates("key", ignore_index=True)
    client, experiment = open_experiment(uri)
    with readable(uri):
        rows = newest(client, experiment, None, lambda run: placed(run) | record(run))
    if not rows:
        raise UserError(f"{shown(uri)} holds no trial yet; run a sweep, for instance: cplearn sweep sweeps/beta.yaml")
    return pd.DataFrame.from_records([{"key": key, **row} for key, row in rows.items()])


def _parents(client: MlflowClient, experiment: str, uri: str | None) -> dict[str, list[Run]]:
    """The parent runs of each sweep's name; raises UserError if there is none.

    The one that was worked on last comes first: a parent goes on when its sweep is invoked again.
    """
    parents: dict[str, list[Run]] = {}
    runs = search(client, experiment, tag_is(Tag.KIND, SWEEP))
    for run in sorted(runs, key=lambda run: max(run.info.start_time, run.info.end_time or 0), reverse=True):
        parents.setdefault(run.data.tags.get(Tag.SWEEP, ""), []).append(run)
    if not parents:
        raise UserError(f"{shown(uri)} holds no sweep yet; run one, for instance: cplearn sweep sweeps/beta.yaml")
    return parents


def _manifest(client: MlflowClient, run_id: str) -> Manifest | None:
    """The manifest of a parent run; None if the sweep was stopped before it was written."""
    if MANIFEST_FILE not in {file.path for file in client.list_artifacts(run_id)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(run_id, MANIFEST_FILE, folder)
        return Manifest.from_dict(json.loads(Path(path).read_text(encoding="utf-8")), f"run {run_id}")


def _result(slug: str, parent: str, manifest: Manifest, runs: Mapping[str, dict[str, Any]]) -> SweepResult:
    use = next(use for use in manifest.datasets if use.slug == slug)
    declared = [
        {
            "run_id": None,
            "key": trial.key,
            "status": "MISSING",
            "sweep": None,
            "started": None,
            "dataset": slug,
            "fingerprint": use.fingerprint,
            "role": trial.role,
            "label": trial.label,
            "seed": trial.seed,
            **{axis: trial.point.get(axis) for axis in manifest.axes},
            "error": None,
        }
        for trial in manifest.trials_on(slug)
    ]
    frame = pd.DataFrame.from_records([{**trial, **runs.get(str(trial["key"]), {})} for trial in declared])
    for axis in manifest.axes:  # Beside the None of the baselines pandas would turn integers into floats.
        frame[axis] = pd.Series([trial[axis] for trial in declared], dtype=object)
    logged = [name for name in map(str, frame.columns) if name not in declared[0]]
    logged.sort(key=lambda name: (not name.startswith(PARAMS), not name.startswith("tags."), name))
    return SweepResult(
        sweep=manifest.sweep,
        description=manifest.description,
        dataset=use.name,
        slug=slug,
        axes=manifest.axes,
        seeds=manifest.seeds,
        about=vars(use),
        parent=parent,
        runs=frame[[*declared[0], *logged]],
        search=manifest.search,
    )
