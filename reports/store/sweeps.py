"""What tables are made of: the trials that a sweep declares, with the runs that count for them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from reports.store.connection import artifact_reader, open_experiment, readable, search, shown
from reports.store.trials import TRIAL_RUNS, newest, profile_of, record
from sweeps.errors import UserError
from sweeps.record import MANIFEST_FILE, PARAMS, SWEEP, DatasetUse, Manifest, ManifestError, Tag, dataset_slug, tag_is

if TYPE_CHECKING:
    import pandas as pd
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

    `search` is what the sweep file says of a search, None where a grid or random draws were run. `tables` are those
    that it wants to be written with its report.
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
    tables: tuple[str, ...] = ()


def list_sweeps(uri: str | None = None, datasets: Collection[str] | None = None) -> list[str]:
    """Names of the sweeps in the store, the newest first; all, or those run on one of the data sets (see `read_sweep`)
    and those whose manifest does not say.

    Raises UserError if the store cannot be read or holds no such sweep.
    """
    parents = _parents(uri, *open_experiment(uri))
    if datasets is None:
        return list(parents)
    read = artifact_reader(uri)
    wanted: list[str] = []
    uses: list[DatasetUse] = []
    for name, runs in parents.items():
        try:
            declared = [use for use, *_ in _declared(read, runs).values()]
        except ManifestError:  # What is wrong with it is told by whoever reads the sweep.
            wanted.append(name)
            continue
        uses += declared
        if any(_is_one_of(use, datasets) for use in declared):
            wanted.append(name)
    if wanted:
        return wanted
    listed = _listed(uses)
    raise UserError(f"no sweep in {shown(uri)} was run on {', '.join(datasets)}, only on: {listed}")


def read_sweep(uri: str | None, name: str, datasets: Collection[str] | None = None) -> list[SweepResult]:
    """The results of a sweep, one for each data set it was run on, or for those of `datasets`: short names, or
    folder:PATH with an absolute path.

    Where several parent runs have the sweep's name, each data set is taken from the newest one that declares it.

    Raises UserError for an unknown name or data set (with the known ones), and if the store cannot be read.
    """
    client, experiment = open_experiment(uri)
    parents = _parents(uri, client, experiment)
    if name not in parents:
        near = difflib.get_close_matches(name, parents, 3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise UserError(f"no sweep {name!r} in {shown(uri)}; {hint}known sweeps: {', '.join(sorted(parents))}")
    declared = _declared(artifact_reader(uri), parents[name])
    if not declared:
        raise UserError(f"sweep {name!r} in {shown(uri)} has no {MANIFEST_FILE}; run the sweep again to write it")
    uses = [use for use, *_ in declared.values()]
    if unknown := [asked for asked in datasets or () if not any(_is_one_of(use, [asked]) for use in uses)]:
        raise UserError(f"sweep {name!r} was not run on {min(unknown)!r}, only on: {_listed(uses)}")
    ordered = [declared[slug] for slug in sorted(declared)]
    wanted = [entry for entry in ordered if datasets is None or _is_one_of(entry[0], datasets)]
    keys = {trial.key for use, _, manifest in wanted for trial in manifest.trials if trial.dataset == use.slug}
    with readable(shown(uri)):
        runs = newest(client, experiment, keys, record)
    return [_result(use, parent, manifest, runs) for use, parent, manifest in wanted]


def _declared(
    read: Callable[[str, str], bytes | None], parents: Sequence[Run]
) -> dict[str, tuple[DatasetUse, str, Manifest]]:
    """By the short name of each data set: its use, run and manifest, of the newest of a sweep's runs."""
    declared: dict[str, tuple[DatasetUse, str, Manifest]] = {}
    for run_id in [parent.info.run_id for parent in parents]:
        # A sweep that was stopped at once has none.
        if (content := read(run_id, MANIFEST_FILE)) is not None:
            manifest = Manifest.read(content, f"run {run_id}")
            for use in manifest.datasets:
                declared.setdefault(use.slug, (use, run_id, manifest))
    return declared


def _is_one_of(use: DatasetUse, datasets: Collection[str]) -> bool:
    return use.slug in datasets or use.name in datasets


def _listed(uses: Iterable[DatasetUse]) -> str:
    """The short names of data sets, and where folders lie."""
    return ", ".join(sorted({use.slug if use.slug == use.name else f"{use.slug} ({use.name})" for use in uses}))


def read_trials(uri: str | None, sweeps: Collection[str] = ()) -> pd.DataFrame:
    """One row for each trial of some sweeps, or of the experiment: the columns of `SweepResult.runs`, axes apart, and
    `test_images`, the number of images of the test split (NaN where a run does not say it).

    Of the whole experiment these are the trials that have a run. Of sweeps also those that were declared and have none:
    their settings are those of the same point at another seed, or if no seed has a run, unknown.

    Raises UserError as `read_sweep` does, and where the experiment holds no trial.
    """
    import pandas as pd

    if sweeps:
        frames = []
        for result in (result for name in sweeps for result in read_sweep(uri, name)):
            runs = result.runs
            settings = [name for name in map(str, runs) if name.startswith(PARAMS) or name == Tag.NUMERICS.column]
            settings = [name for name in settings if name != f"{PARAMS}seed"]
            same_point = runs.groupby("label")[settings].transform("first")
            placed = runs.drop(columns=list(result.axes)).assign(**runs[settings].fillna(same_point))
            frames.append(placed.assign(test_images=result.about["test_images"]))
        trials = pd.concat(frames, ignore_index=True)
        # A trial that several sweeps share is one trial.
        return trials.drop_duplicates("key", ignore_index=True)
    client, experiment = open_experiment(uri)
    with readable(shown(uri)):
        rows = newest(client, experiment, None, _placed_record)
    if not rows:
        raise UserError(f"{shown(uri)} holds no trial yet; run a sweep, for instance: cplearn sweep beta")
    return pd.DataFrame.from_records([{"key": key, **row} for key, row in rows.items()])


def read_runs(uri: str | None) -> pd.DataFrame:
    """One row for each run of a trial in the experiment, failed, stopped and repeated ones too, with the columns of
    `read_trials` and `elapsed`, the seconds from its start to its end. Raises UserError where there is none."""
    import pandas as pd

    client, experiment = open_experiment(uri)
    with readable(shown(uri)):
        runs = list(search(client, experiment, TRIAL_RUNS))
    if not runs:
        raise UserError(f"{shown(uri)} holds no trial yet; run a sweep, for instance: cplearn sweep beta")
    ends = (run.info.end_time - run.info.start_time if run.info.end_time else math.nan for run in runs)
    return pd.DataFrame([_placed_record(run) | {"elapsed": end / 1000} for run, end in zip(runs, ends, strict=True)])


def _placed_record(run: Run) -> dict[str, Any]:
    """The record of a trial with what a manifest would say of it."""
    images = profile_of(run).get("test_images", math.nan)
    tags = {tag.short: run.data.tags.get(tag) for tag in (Tag.DATASET, Tag.ROLE, Tag.LABEL)}
    placed = {**tags, "test_images": images, "seed": int(run.data.params.get("seed", 0)), **record(run)}
    return {**placed, "dataset": dataset_slug(placed["dataset"] or "", placed["fingerprint"] or "")}


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
        raise UserError(f"{shown(uri)} holds no sweep yet; run one, for instance: cplearn sweep beta")
    return parents


def _result(use: DatasetUse, parent: str, manifest: Manifest, runs: Mapping[str, dict[str, Any]]) -> SweepResult:
    import pandas as pd

    # Where a sweep has no axes, its trials are called by its name.
    declared = [
        replace(trial, label=trial.label or manifest.sweep) for trial in manifest.trials if trial.dataset == use.slug
    ]
    frame = pd.DataFrame.from_records(
        {"status": "MISSING", "fingerprint": use.fingerprint, **vars(trial), **runs.get(trial.key, {})}
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
        dataset=use.name,
        slug=use.slug,
        axes=manifest.axes,
        seeds=manifest.seeds,
        about=vars(use),
        parent=parent,
        runs=frame.reindex(columns=[*columns, *logged]),
        search=manifest.search,
        tables=tuple(manifest.tables),
    )
