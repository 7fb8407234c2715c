"""`cplearn plan`, and what `cplearn sweep` plans likewise."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from rich.console import RenderableType

    from runner.machine.resources import Resources
    from runner.planning.plan import Job, Plan
    from runner.planning.survey import Searched, Surveyed
    from runner.timing import Forecast, Machine
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
        from runner.planning.budget import Deadline
        from runner.planning.survey import survey
        from runner.timing import forecast

        deadline = Deadline(budget)
        planned, resources = plan_sweep(file, dataset, seeds, epochs, settings, scale, data_root, (cpus, gpus, ranks))
        uri = store.resolve(tracking_uri)
        check_places(results, uri, checkpoints)
        searched, wanted, examples = look_at_search(planned, uri, force)
        keys = {job.key for job in planned.jobs}
        reached = {} if force else Checkpoints(checkpoints).epochs(keys)
        surveyed = survey(
            planned.jobs,
            store.trial_records(uri, keys),
            reached,
            force=force,
            retry_failed=retry_failed,
            stopper=planned.stopper,
        )
        jobs = [trial.job for trial in surveyed if trial.is_left and trial.job.key in wanted] + examples
        expected = forecast(
            planned,
            jobs,
            machine_of(resources),
            functools.partial(store.timed_runs, uri),
            reached=reached,
            budgeted=deadline.given,
        )
        expected = expected.calibrated(data_root, careful=calibrate)
        if as_json:
            print(json.dumps(as_dict(planned, surveyed, expected, deadline.seconds, searched)))
        else:
            out.print(
                render(planned, surveyed, expected, deadline.seconds, every, searched), highlight=False, soft_wrap=True
            )


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


def machine_of(resources: Resources) -> Machine:
    """Where trials with these resources would run: on this machine, or on the cluster of RAY_ADDRESS."""
    from runner.machine import resources as places
    from runner.timing import Machine

    remote = bool(os.environ.get("RAY_ADDRESS"))
    if remote:
        from runner.execution.execute import cluster

        settled, slots = cluster(resources)
    else:
        settled, slots = places.local(resources)
    return Machine(settled, slots, places.hardware(settled, remote), None if remote else places.memory())


def render(
    plan: Plan,
    surveyed: Sequence[Surveyed],
    expected: Forecast,
    budget: float | None,
    every: bool,
    searched: Sequence[Searched] = (),
) -> RenderableType:
    """The whole answer for a terminal; `every` lists each trial."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table

    from sweeps.record import STATES

    counts = Counter((trial.job.dataset, trial.state) for trial in surveyed)
    table = Table("data set", *STATES, "all", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for use in plan.datasets:
        numbers = [counts[use.slug, state] for state in STATES]
        table.add_row(escape(use.slug), *(str(n) if n else "" for n in numbers), str(sum(numbers)))
    details = Counter((trial.state, trial.detail) for trial in surveyed if trial.detail)
    lines = [f"{n} {state}: {detail}" for (state, detail), n in details.most_common(8)]
    lines += [str(study) for study in searched]
    if plan.sweep.scheduler:
        lines.append(f"Stopped early by {plan.sweep.scheduler}: the times below are those without stops.")
    lines += _outlook(expected) if expected.jobs else ["Nothing is left to run."]
    if budget is not None and expected.jobs:
        lines += _table_within(expected, surveyed, budget)
    parts: list[RenderableType] = [table, "", *map(escape, lines)]
    if every:
        listing = Table("key", "state", "data set", "trial", "", box=None, pad_edge=False)
        for trial in surveyed:
            job = trial.job
            listing.add_row(job.key, trial.state, *(escape(text) for text in (job.dataset, job.name, trial.detail)))
        parts += ["", listing]
    return Group(*parts)


def _outlook(expected: Forecast) -> list[str]:
    lines = [str(expected)]
    if expected.unknown < len(expected.jobs):
        unit, each = expected.machine.devices
        busy = expected.busy
        middle, low, high = (f"{value * each / 3600:.3g}" for value in (busy.middle, busy.low, busy.high))
        lines.append(f"{unit} hours: {middle} ({low} to {high}).")
        sources = Counter(timing.source for timing in expected.timings.values())
        basis = ", ".join(f"{source} for {n}" for source, n in sources.items())
        kinds = len(set(expected.keys.values()))
        lines.append(f"Rests on: {basis} of {kinds} kind{'s' if kinds > 1 else ''} of trials.")
    return lines


def _table_within(expected: Forecast, surveyed: Sequence[Surveyed], budget: float) -> list[str]:
    from runner.planning.quantities import duration

    done = {job.key for job in expected.within(budget)} | {t.job.key for t in surveyed if t.state == "reused"}
    unknown = "; trials of unknown time are left out here, though they would run" if expected.unknown else ""
    lines = [f"Within the budget of {duration(budget)} the table would hold (middle estimate{unknown}):"]
    whole = Counter((trial.job.dataset, trial.job.trial.seed) for trial in surveyed)
    held = Counter((trial.job.dataset, trial.job.trial.seed) for trial in surveyed if trial.job.key in done)
    return lines + [f"  {data} seed {seed}: {held[data, seed]} of {n} trials" for (data, seed), n in whole.items()]


def as_dict(
    plan: Plan,
    surveyed: Sequence[Surveyed],
    expected: Forecast,
    budget: float | None,
    searched: Sequence[Searched] = (),
) -> dict[str, Any]:
    """The same as plain JSON; seconds and bytes."""
    from sweeps.record import STATES

    unit, each = expected.machine.devices
    counts = Counter(trial.state for trial in surveyed)
    result = {
        "sweep": plan.sweep.name,
        "counts": {state: counts[state] for state in STATES},
        "slots": expected.machine.slots,
        "unknown_trials": expected.unknown,
        "wall_s": asdict(expected.wall),
        "device": unit,
        "device_s": {name: value * each for name, value in asdict(expected.busy).items()},
        "disk_bytes": expected.disk,
        "to_run": [job.key for job in expected.jobs],
        "timings": [asdict(timing) for timing in expected.timings.values()],
        "trials": [
            {
                "key": trial.job.key,
                "state": trial.state,
                "detail": trial.detail,
                "dataset": trial.job.dataset,
                "label": trial.job.label,
                "seed": trial.job.trial.seed,
            }
            for trial in surveyed
        ],
    }
    if expected.reason:
        result["unknown_reason"] = expected.reason
    if searched:
        result["search"] = [asdict(study) for study in searched]
    if budget is not None:
        result |= {"budget_s": budget, "within_budget": [job.key for job in expected.within(budget)]}
    return result
