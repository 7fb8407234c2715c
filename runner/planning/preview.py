"""What `cplearn plan` says: which trials are new, how they would run, for how long, and what they leave on disk."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from cplearn.errors import InputError
from runner.machine.resources import Resources
from runner.planning.packing import AUTO_ON_CPUS, describe
from runner.planning.plan import Job, Plan
from runner.progress import duration
from runner.timing import estimate
from runner.timing.estimate import Estimate, Interval, Kind, Timing

State = Literal["new", "reused", "resumable", "failed", "running", "stopped", "diverged"]
STATES: tuple[State, ...] = ("new", "reused", "resumable", "failed", "running", "stopped", "diverged")
LEFT_ALONE: tuple[State, ...] = ("reused", "stopped", "diverged")
"""Trials in these states are not run."""


@dataclass(frozen=True)
class Placed:
    """A job, its state in the store, and a word on it: the sweep it is reused from, the end of a failure's message."""

    job: Job
    state: State
    detail: str


@dataclass(frozen=True)
class Searched:
    """How far the search on a data set is: `done` of its suggestions have ended, `asked` are known, of `trials`."""

    dataset: str
    study: str
    trials: int
    asked: int
    done: int

    def __str__(self) -> str:
        known = f"study {self.study}: {self.done} done" if self.study else "no study yet"
        begun = f", {self.asked - self.done} begun" if self.asked > self.done else ""
        return (
            f"Search on {self.dataset}: {self.trials} trials in all ({known}{begun}); "
            f"{max(0, self.trials - self.asked)} are still to be suggested."
        )


@dataclass(frozen=True)
class Forecast:
    """How the missing jobs would run: their packs in order, what is known of their time, and the sum of it.

    `disk` is in bytes.
    """

    packs: list[list[Job]]
    timings: dict[Kind, Timing]
    estimate: Estimate
    resources: Resources
    slots: int
    disk: int

    @property
    def devices(self) -> tuple[str, float]:
        """What a pack occupies: GPUs where it has any, else CPU cores."""
        asked = self.resources
        return ("GPU", asked.gpus) if asked.gpus else ("CPU core", asked.cpus * asked.processes)


def place(
    jobs: Sequence[Job],
    known: Mapping[str, Mapping[str, str]],
    reached: Mapping[str, int],
    force: bool = False,
    stopper: str = "",
    diverged: Collection[str] = (),
) -> list[Placed]:
    """Each job with its state; `known` maps keys to run_id, status, started, sweep, error and stopped_by, `reached` to
    epochs. What `stopper`, the sweep's own scheduler, has stopped early is not run again, nor are the keys of
    `diverged`, whose loss was no longer finite."""

    def state(job: Job) -> tuple[State, str]:
        run = known.get(job.key, {})
        status = run.get("status")
        if status == "FINISHED" and not force:
            return "reused", f"from {run['sweep']}"
        if status == "KILLED" and not force and stopper and run["stopped_by"] == stopper:
            return "stopped", "early, by this sweep's scheduler"
        if job.key in diverged:
            return "diverged", _last_line(run["error"])
        if job.key in reached:
            return "resumable", f"at epoch {reached[job.key]} of {job.trial.epochs}"
        if status == "RUNNING":
            return "running", f"in {run['sweep']} since {run['started']}, or lost"
        if status == "FAILED":
            return "failed", _last_line(run["error"])
        return "new", ""

    return [Placed(job, *state(job)) for job in jobs]


def _last_line(error: str) -> str:
    return (error.strip().splitlines() or ["without a message"])[-1]


def forecast(
    packs: Sequence[Sequence[Job]],
    timings: Mapping[Kind, Timing],
    resources: Resources,
    slots: int,
    disk: int,
    reached: Mapping[str, int],
) -> Forecast:
    """The sum over packs. Its draws start from a fixed seed, so that equal questions get equal answers."""
    total = estimate.simulate(packs, timings, slots, np.random.default_rng(0), reached)
    return Forecast([list(pack) for pack in packs], dict(timings), total, resources, slots, disk)


def timings(
    plan: Plan,
    packs: Sequence[Sequence[Job]],
    hardware: Mapping[str, str],
    runs: Callable[[str, str | None], Sequence[estimate.Record]],
) -> tuple[dict[Kind, Timing], list[Sequence[Job]]]:
    """What finished runs say about each kind of pack, and a pack of each kind of which they say nothing or no more than
    that of a similar run. `runs` gives the records of a method on the data of a fingerprint, or on any (None)."""
    uses = {use.fingerprint: use for use in plan.datasets}
    found: dict[Kind, Timing] = {}
    unsure: dict[Kind, Sequence[Job]] = {}
    asked: dict[tuple[str, str | None], Sequence[estimate.Record]] = {}
    for pack in packs:
        of_kind = estimate.kind(pack)
        if of_kind in found or of_kind in unsure:
            continue
        unsure[of_kind] = pack
        for fingerprint in (pack[0].fingerprint, None):
            question = (pack[0].trial.method.name, fingerprint)
            if question not in asked:
                asked[question] = runs(*question)
            timing = estimate.timing(pack, asked[question], hardware, uses[pack[0].fingerprint])
            if timing:
                found[of_kind] = timing
                if timing.source == "finished runs":
                    del unsure[of_kind]
                break
    return found, list(unsure.values())


def line(shown: Forecast) -> str:
    """One line: `Expected: 12 min 05 s (10 min 00 s to 15 min 20 s) on 2 slots, about 33 MB on disk.`"""
    total, stored = shown.estimate, f"about {size(shown.disk)} on disk"
    if total.unknown == len(shown.packs):
        return f"Expected: unknown time (`cplearn plan --calibrate` times a few steps), {stored}."
    slots = f"{shown.slots} slot{'s' if shown.slots > 1 else ''}"
    missing = f"; {total.unknown} of {len(shown.packs)} packs are of unknown time and not counted; add --calibrate"
    return f"Expected: {_span(total.wall)} on {slots}, {stored}{missing if total.unknown else ''}."


def seconds_by_job(packs: Sequence[Sequence[Job]], timings: Mapping[Kind, Timing]) -> dict[str, float]:
    """Expected seconds of each job's share of its pack, by key; none of unknown time."""
    found: dict[str, float] = {}
    for pack in packs:
        if known := timings.get(estimate.kind(pack)):
            found |= {job.key: known.seconds(job.trial.epochs) / len(pack) for job in pack}
    return found


def stored(jobs: Sequence[Job], plan: Plan, memory: float | None) -> int:
    """Bytes that the runs of these jobs leave.

    Raises InputError if one of them cannot exist in the `memory` of the machine, where that is known.
    """
    uses = {use.fingerprint: use for use in plan.datasets}
    whole, sizes = 0, dict[Kind, int]()
    for job in jobs:
        of_kind = (estimate.kind([job])[0], job.trial.epochs)
        if of_kind not in sizes:
            sizes[of_kind] = estimate.stored_bytes(job, uses[job.fingerprint])
        own = sizes[of_kind]
        if memory is not None and own > memory:
            raise InputError(
                f"the model of {job.dataset} {job.name} alone takes {size(own)}, this machine has {size(memory)}"
            )
        whole += own
    return whole


def apart(jobs: Sequence[Job]) -> list[str]:
    """The settings because of which trained jobs cannot all be stacked into one model."""
    signatures = [{**job.trial.pack_signature(), "dataset": job.dataset} for job in jobs if job.trial.method.trains]
    keys = dict.fromkeys(key for signature in signatures for key in signature)
    return [key for key in keys if len({json.dumps(signature.get(key)) for signature in signatures}) > 1]


def within(shown: Forecast, budget: float) -> list[Job]:
    """The jobs that end within `budget` seconds if every pack takes its middle time; none of unknown time is among
    them. A pack that would end too late is not begun, a shorter one after it is."""
    ends = [estimate.START] * shown.slots
    done: list[Job] = []
    for pack in shown.packs:
        known = shown.timings.get(estimate.kind(pack))
        slot = min(range(shown.slots), key=ends.__getitem__)
        if known and ends[slot] + known.seconds(pack[0].trial.epochs) <= budget:
            ends[slot] += known.seconds(pack[0].trial.epochs)
            done += pack
    return done


def render(
    plan: Plan,
    placed: Sequence[Placed],
    shown: Forecast,
    width: int | None,
    budget: float | None,
    every: bool,
    searched: Sequence[Searched] = (),
) -> RenderableType:
    """The whole answer for a terminal; `width` is that of packs (see `planning.packing`), `every` lists each trial."""
    counts = Counter((one.job.dataset, one.state) for one in placed)
    table = Table("data set", *STATES, "all", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for use in plan.datasets:
        own = [counts[use.slug, state] for state in STATES]
        table.add_row(escape(use.slug), *(str(n) if n else "" for n in own), str(sum(own)))
    parts: list[RenderableType] = [table, ""]
    for (state, detail), n in Counter((one.state, one.detail) for one in placed if one.detail).most_common(8):
        parts.append(escape(f"{n} {state}: {detail}"))
    parts += [escape(str(one)) for one in searched]
    if plan.sweep.scheduler:
        parts.append(escape(f"Stopped early by {plan.sweep.scheduler}: the times below are those without stops."))
    if searched or plan.sweep.scheduler:
        parts.append("Every trial runs alone, since it is suggested or stopped by itself.")
    missing = sum(len(pack) for pack in shown.packs)
    if not missing:
        parts.append("Nothing is left to run.")
    else:
        parts += [escape(text) for text in _outlook(shown, width)]
    if budget is not None and missing:
        parts += [escape(text) for text in _table_within(shown, placed, budget)]
    if every:
        listing = Table("key", "state", "data set", "trial", "", box=None, pad_edge=False)
        for one in placed:
            job = one.job
            listing.add_row(job.key, one.state, *(escape(text) for text in (job.dataset, job.name, one.detail)))
        parts += ["", listing]
    return Group(*parts)


def as_dict(
    plan: Plan, placed: Sequence[Placed], shown: Forecast, budget: float | None, searched: Sequence[Searched] = ()
) -> dict[str, Any]:
    """The same as plain JSON; seconds and bytes."""
    unit, each = shown.devices
    result = {
        "sweep": plan.sweep.name,
        "counts": {state: sum(one.state == state for one in placed) for state in STATES},
        "slots": shown.slots,
        "unknown_packs": shown.estimate.unknown,
        "wall_s": asdict(shown.estimate.wall),
        "device": unit,
        "device_s": {name: value * each for name, value in asdict(shown.estimate.busy).items()},
        "disk_bytes": shown.disk,
        "packs": [[job.key for job in pack] for pack in shown.packs],
        "timings": [{**asdict(timing), "members": of_kind[1]} for of_kind, timing in shown.timings.items()],
        "trials": [
            {
                "key": one.job.key,
                "state": one.state,
                "detail": one.detail,
                "dataset": one.job.dataset,
                "label": one.job.label,
                "seed": one.job.trial.seed,
            }
            for one in placed
        ],
    }
    if searched:
        result["search"] = [asdict(one) for one in searched]
    if budget is not None:
        result |= {"budget_s": budget, "within_budget": [job.key for job in within(shown, budget)]}
    return result


def _outlook(shown: Forecast, width: int | None) -> list[str]:
    total, (unit, each) = shown.estimate, shown.devices
    lines = [line(shown)]
    if total.unknown < len(shown.packs):
        hours = (value * each / 3600 for value in (total.busy.middle, total.busy.low, total.busy.high))
        middle, low, high = (f"{value:.3g}" for value in hours)
        lines.append(f"{unit} hours: {middle} ({low} to {high}).")
        sources = Counter(timing.source for timing in shown.timings.values())
        basis = ", ".join(f"{source} for {n}" for source, n in sources.items())
        kinds = len({estimate.kind(pack) for pack in shown.packs})
        lines.append(f"Rests on: {basis} of {kinds} kind{'s' if kinds > 1 else ''} of trials.")
    if width != 1:
        alone = "Every trial is trained alone" + (f"; {AUTO_ON_CPUS}." if width is None else ".")
        lines.append(describe(shown.packs) or alone)
        if kept := apart([job for pack in shown.packs for job in pack]):
            lines.append(f"Kept in separate packs by: {', '.join(kept)}.")
    return lines


def _table_within(shown: Forecast, placed: Sequence[Placed], budget: float) -> list[str]:
    done = {job.key for job in within(shown, budget)}
    unknown = "; trials of unknown time are left out here, though they would run" if shown.estimate.unknown else ""
    lines = [f"Within the budget of {duration(budget)} the table would hold (middle estimate{unknown}):"]
    for dataset, seed in dict.fromkeys((one.job.dataset, one.job.trial.seed) for one in placed):
        own = [one for one in placed if (one.job.dataset, one.job.trial.seed) == (dataset, seed)]
        held = sum(one.state == "reused" or one.job.key in done for one in own)
        lines.append(f"  {dataset} seed {seed}: {held} of {len(own)} trials")
    return lines


def _span(seconds: Interval) -> str:
    return f"{duration(seconds.middle)} ({duration(seconds.low)} to {duration(seconds.high)})"


def size(n: float) -> str:
    """Bytes in words, `1.2 GB` for instance."""
    power = min(int(math.log10(max(n, 1)) // 3), 4)
    return f"{n / 1000**power:.3g} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
