"""`cplearn plan`, and what `cplearn sweep` plans likewise."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runner.cli.console import check_places, out, overridden, plain_errors
from runner.cli.options import (
    Budget,
    CheckpointPlace,
    Compile,
    Cpus,
    DataRoot,
    DatasetName,
    Epochs,
    Force,
    Gpus,
    Ranks,
    Results,
    RetryFailed,
    Scale,
    Seeds,
    Setting,
    SweepName,
    Uri,
)

if TYPE_CHECKING:
    from runner.machine.resources import Resources
    from runner.planning.plan import Job, Plan
    from runner.planning.preview import Forecast, Searched
    from sweeps.spec import Sweep


def plan(
    file: SweepName,
    dataset: DatasetName = None,
    seeds: Seeds = None,
    epochs: Epochs = None,
    settings: Setting = [],  # noqa: B006
    scale: Scale = "full",
    cpus: Cpus = None,
    gpus: Gpus = None,
    ranks: Ranks = None,
    compile: Compile = False,
    force: Force = False,
    retry_failed: RetryFailed = False,
    checkpoints: CheckpointPlace = "checkpoints",
    budget: Budget = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time a few steps of every kind of trial here, for a minute at most.")
    ] = False,
    every: Annotated[bool, typer.Option("--list", help="List every trial with its key and state.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead: seconds, bytes, keys.")] = False,
    results: Results = Path("results"),
    data_root: DataRoot = None,
    tracking_uri: Uri = None,
) -> None:
    """Say what `cplearn sweep` would run with the same options, for how long and with how much disk; run nothing."""
    with plain_errors():
        import json

        from reports import store
        from runner.durability.checkpoints import Checkpoints
        from runner.planning import preview
        from runner.planning.budget import Deadline

        deadline = Deadline(budget)
        planned, resources = plan_sweep(file, dataset, seeds, epochs, settings, scale, data_root, (cpus, gpus, ranks))
        width = 1
        uri = store.resolve(tracking_uri)
        check_places(results, uri, checkpoints)
        searched, wanted, examples = look_at_search(planned, uri, force)
        keys = {job.key for job in planned.jobs}
        known = {key: vars(run) for key, run in store.known_runs(uri, keys).items()}
        reached = {} if force else Checkpoints(checkpoints).epochs(keys)
        unfinished = {key for key, run in known.items() if run["status"] != "FINISHED"}
        diverged = {} if force or retry_failed or not unfinished else store.diverged_runs(uri, unfinished)
        placed = preview.place(planned.jobs, known, reached, force, planned.stopper, diverged)
        todo = [one.job for one in placed if one.state not in preview.LEFT_ALONE and one.job.key in wanted]
        expected = forecast(
            planned,
            todo + examples,
            resources,
            width,
            uri,
            data_root,
            by_seed=deadline.given,
            reached=reached,
            calibrate=calibrate,
        )
        if as_json:
            print(json.dumps(preview.as_dict(planned, placed, expected, deadline.seconds, searched)))
        else:
            shown = preview.render(planned, placed, expected, width, deadline.seconds, every, searched)
            out.print(shown, highlight=False, soft_wrap=True)


def plan_sweep(
    file: str,
    dataset: str | None,
    seeds: int | None,
    epochs: int | None,
    settings: list[str],
    scale: str,
    data_root: Path | None,
    asked: tuple[float | None, float | None, int | None],
) -> tuple[Plan, Resources]:
    """A sweep's plan, and what each of its trials runs on; `asked` are CPUs, GPUs and ranks of the command line."""
    from runner.planning.plan import SCHEMA, make_plan
    from sweeps.loading import find
    from sweeps.spec import read_sweep

    described: Sweep = read_sweep(find(file), SCHEMA, overridden(dataset, epochs, settings), seeds, scale)
    resources = _resources(described, *asked)
    return make_plan(described, data_root, resources.processes), resources


def look_at_search(plan: Plan, uri: str, force: bool) -> tuple[list[Searched], set[str], list[Job]]:
    """How far a search is, the keys of the plan's jobs that are to have finished in the end, and jobs that stand
    for suggestions to come. The plan gets the jobs of earlier suggestions."""
    if plan.sweep.search is None:
        return [], {job.key for job in plan.jobs}, []
    from runner.search import search

    wanted = {job.key for job in plan.jobs}
    studies = search.find(plan, search.beside(uri))
    searched: list[Searched] = []
    examples: list[Job] = []
    for one in studies:
        if force:
            one.study = None
        searched.append(search.surveyed(one))
        for suggestion in one.suggestions():
            plan.add(suggestion.jobs)
            wanted |= {job.key for job in suggestion.jobs} if suggestion.is_wanted else set()
        examples += search.example_jobs(one, plan.sweep.search.trials - searched[-1].asked)
    return searched, wanted, examples


def _resources(sweep: Sweep, cpus: float | None, gpus: float | None, ranks: int | None) -> Resources:
    """What a trial is given: as the command line says, else the sweep file, else the defaults."""
    from runner.machine.resources import Resources

    asked = sweep.resources
    # A number of GPUs on the command line is also a number of processes.
    own = ranks or (asked.ranks if gpus is None else None) or 1
    each = next(number for number in (cpus, asked.cpus, 1) if number is not None)
    return Resources(each, asked.gpus if gpus is None else gpus, own)


def forecast(
    plan: Plan,
    jobs: list[Job],
    resources: Resources,
    width: int | None,
    uri: str,
    data_root: Path | None,
    *,
    by_seed: bool,
    reached: Mapping[str, int],
    calibrate: bool = False,
) -> Forecast:
    """How the missing jobs would run, and for how long; with `by_seed` in the order of a budget."""
    import cplearn.data
    from cplearn.training import footprint
    from reports import store
    from runner.machine import resources as places
    from runner.planning import budget, packing, preview

    remote = bool(os.environ.get("RAY_ADDRESS"))
    if remote:
        from runner.execution.execute import cluster

        resources, slots = cluster(resources)
    else:
        resources, slots = places.local(resources)

    def fitting(job: Job) -> int:
        dataset = cplearn.data.load(**job.trial.data_request(), root=data_root)
        return packing.widest(footprint(job.trial, dataset), places.local_memory(resources), bool(resources.gpus))

    if not jobs:
        return preview.forecast([], {}, resources, slots, 0, {})
    disk = preview.stored(jobs, plan, None if remote else places.memory())

    def packed(jobs: list[Job]) -> list[list[Job]]:
        return packing.group(jobs, width, slots, None if remote else fitting, reached, by_seed=by_seed)

    packs = packed(jobs)
    threads = max(1, int(resources.cpus))
    hardware = places.hardware(resources, remote)
    timings, unsure = preview.timings(
        plan, packs, hardware, lambda method, fingerprint: store.timed_runs(uri, method, fingerprint)
    )
    if calibrate:
        from runner.timing.calibrate import calibrate as measure

        timings |= measure(unsure, hardware["device"], threads, data_root)
    if by_seed:
        seconds = preview.seconds_by_job(packs, timings)
        packs = packed(budget.order(jobs, plan.sweep.seeds, plan.sweep.axes, lambda job: seconds.get(job.key)))
    return preview.forecast(packs, timings, resources, slots, disk, reached)
