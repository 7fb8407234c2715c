"""`cplearn plan`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from typer import Option

from runner.cli.console import out, show
from runner.driver.options import SweepOptions
from runner.planning.quantities import duration
from sweeps.record import STATES

if TYPE_CHECKING:
    from runner.driver.resolution import Resolution
    from runner.driver.result import SweepSurvey
    from runner.driver.run import SweepRun
    from runner.planning.plan import Surveyed
    from runner.timing.forecast import Forecast


def plan(
    options: SweepOptions,
    calibrate: Annotated[
        bool, Option("--calibrate", help="Time a few steps of every kind of trial here, for a minute at most.")
    ] = False,
    every: Annotated[bool, Option("--list", help="List every trial with its key and state.")] = False,
    as_json: Annotated[bool, Option("--json", help="Print JSON instead: seconds, bytes, keys.")] = False,
    resolve: Annotated[
        float | None,
        Option(metavar="DIFFERENCE", help="Say how many seeds tell rows apart whose accuracy differs by 0.005, say."),
    ] = None,
) -> None:
    """Say what `cplearn sweep` would run with the same options, for how long and with how much disk; run nothing."""
    from runner.driver.run import SweepRun

    run = SweepRun(options)
    survey = run.survey()
    survey = replace(survey, forecast=survey.forecast.calibrated(options.data_root, careful=calibrate))
    resolved = _resolve(run, options, resolve) if resolve is not None else []
    if as_json:
        answer = _as_dict(survey, run.deadline.seconds)
        print(json.dumps(answer | ({"resolve": [asdict(each) for each, _ in resolved]} if resolved else {})))
        return
    out.print(_render(survey, run.deadline.seconds, every), highlight=False, soft_wrap=True)
    for resolution, cost in resolved:
        show(f"\n{resolution}{cost}")


def _resolve(run: SweepRun, options: SweepOptions, difference: float) -> list[tuple[Resolution, str]]:
    """What it takes to support a difference on each data set, and in words what the further seeds would cost."""
    from runner.driver.resolution import resolutions

    answers = []
    for resolution in resolutions(run.uri, run.plan, difference):
        cost = ""
        if resolution.seeds and resolution.seeds > resolution.planned:
            wider = type(run)(replace(options, seeds=resolution.seeds)).survey().forecast.calibrated(options.data_root)
            unit, hours = wider.device_hours
            cost = f" With {resolution.seeds} seeds: {wider}{f' {unit} hours: {hours.middle:.3g}.' if hours else ''}"
        answers.append((resolution, cost))
    return answers


def _render(survey: SweepSurvey, budget: float | None, every: bool) -> RenderableType:
    """The whole answer for a terminal; `every` lists each trial."""
    plan, surveyed, expected = survey.plan, survey.trials, survey.forecast
    counts = Counter((trial.job.dataset, trial.state) for trial in surveyed)
    table = Table("data set", *STATES, "all", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for dataset in dict.fromkeys(use.slug for use in plan.datasets):
        numbers = [counts[dataset, state] for state in STATES]
        table.add_row(Text(dataset), *(str(n) if n else "" for n in numbers), str(sum(numbers)))
    details = Counter((trial.state, trial.detail) for trial in surveyed if trial.detail)
    lines = [f"{n} {state}: {detail}" for (state, detail), n in details.most_common(8)]
    lines += [str(study) for study in survey.searched]
    if plan.sweep.scheduler:
        lines.append(f"Stopped early by {plan.sweep.scheduler}: the times below are those without stops.")
    lines.append(str(expected) if expected.jobs else "Nothing is left to run.")
    lines += [survey.unused] if survey.unused else []
    unit, hours = expected.device_hours
    if hours:
        lines.append(f"{unit} hours: {hours.middle:.3g} ({hours.low:.3g} to {hours.high:.3g}).")
        sources = Counter(timing.source for timing in expected.timings.values())
        basis = ", ".join(f"{source} for {n}" for source, n in sources.items())
        kinds = len(set(expected.keys.values()))
        lines.append(f"Rests on: {basis} of {kinds} kind{'s' if kinds > 1 else ''} of trials.")
    if budget is not None and expected.jobs:
        lines += _table_within(expected, surveyed, budget)
    parts: list[RenderableType] = [table, "", *map(Text, lines)]
    if every:
        listing = Table("key", "state", "data set", "trial", "", box=None, pad_edge=False)
        for trial in surveyed:
            job = trial.job
            listing.add_row(job.key, trial.state, *map(Text, (job.dataset, job.name, trial.detail)))
        parts += ["", listing]
    return Group(*parts)


def _table_within(expected: Forecast, surveyed: Sequence[Surveyed], budget: float) -> list[str]:
    done = {job.key for job in expected.within(budget)} | {t.job.key for t in surveyed if t.state == "reused"}
    unknown = "; trials of unknown time are left out here, though they would run" if expected.unknown else ""
    lines = [f"Within the budget of {duration(budget)} the table would hold (middle estimate{unknown}):"]
    whole = Counter((trial.job.dataset, trial.job.trial.seed) for trial in surveyed)
    held = Counter((trial.job.dataset, trial.job.trial.seed) for trial in surveyed if trial.job.key in done)
    return lines + [f"  {data} seed {seed}: {held[data, seed]} of {n} trials" for (data, seed), n in whole.items()]


def _as_dict(survey: SweepSurvey, budget: float | None) -> dict[str, Any]:
    """The same as plain JSON; seconds and bytes."""
    expected = survey.forecast
    unit, each = expected.machine.devices
    counts = Counter(trial.state for trial in survey.trials)
    result = {
        "sweep": survey.plan.sweep.name,
        "counts": {state: counts[state] for state in STATES},
        "slots": expected.machine.slots,
        "unknown_trials": expected.unknown,
        "wall_s": expected.wall._asdict(),
        "device": unit,
        "device_s": {name: value * each for name, value in expected.busy._asdict().items()},
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
            for trial in survey.trials
        ],
    }
    if expected.reason:
        result["unknown_reason"] = expected.reason
    if survey.searched:
        result["search"] = [asdict(study) for study in survey.searched]
    if budget is not None:
        result |= {"budget_s": budget, "within_budget": [job.key for job in expected.within(budget)]}
    return result
