"""A call of a sweep that repeats one which ran to its end: where nothing has changed since, it is not planned again.

To plan a sweep imports torch and reads the data, for seconds; to see that its report is as it was takes neither.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cplearn.data import data_root
from runner.driver.options import SweepOptions
from runner.machine.folders import cache_folder
from sweeps.addresses import experiment_name, resolve
from sweeps.loading import find, load
from sweeps.settings import code_state

if TYPE_CHECKING:
    from reports.build import Report
    from runner.planning.plan import Plan

PACKAGES = ("cplearn", "sweeps", "runner", "reports")
LIBRARIES = ("torch", "torchvision", "timm", "scikit-learn", "pydantic", "pillow")
"""Libraries on which keys, data and checks may depend."""


def unchanged(options: SweepOptions) -> tuple[str, list[Report]] | None:
    """What to say, and the reports, where an identical call has run all trials and its reports are as they were then;
    else None."""
    if options.force or options.budget:
        return None
    with suppress(OSError, ValueError, TypeError, LookupError):  # The call is then planned.
        record = json.loads(_path(options).read_text(encoding="utf-8"))
        name, trials = record["sweep"], record["trials"]
        from reports import build
        from runner.search.importance import importances

        reports = build.build(options.tracking_uri, name, options.results, record["datasets"], importances)
        if [report.inputs for report in reports if not report.is_new] == record["inputs"]:
            said = f"Sweep {name}: 0 trials to run, {trials} finished before; nothing has changed since."
            return said, reports
    return None


def remember(options: SweepOptions, plan: Plan, reports: Sequence[Report]) -> None:
    """Write down that a call has run all trials of its plan, and what its reports were made of.

    A search and a scheduler decide anew, folders of images are looked through, and tables over several sweeps are
    filled with what others have run: sweeps with such are planned in every call.
    """
    decides = plan.sweep.search or plan.sweep.scheduler or plan.sweep.tables
    names = {name for job in plan.jobs for name in (job.trial.dataset, *job.trial.evaluation.transfer)}
    on_demand = any(job.trial.decode == "on-demand" for job in plan.jobs)
    if decides or on_demand or any(":" in name for name in names) or not all(report.inputs for report in reports):
        return
    record = {
        "sweep": plan.sweep.name,
        "datasets": [use.slug for use in plan.datasets],
        "trials": len(plan.jobs),
        "inputs": [report.inputs for report in reports],
    }
    path = _path(options)
    with suppress(OSError):  # The next call is then planned.
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record), encoding="utf-8")


def _path(options: SweepOptions) -> Path:
    """The record of calls that are identical to this one: in options, sweep file, program, data and places."""
    root = data_root(options.data_root)
    call = [
        dataclasses.asdict(options),
        repr(load(find(options.sweep))),
        code_state(PACKAGES, LIBRARIES),
        [str(root), _states(root / "cache")],
        [resolve(options.tracking_uri), experiment_name(), str(options.results.absolute())],
    ]
    digest = hashlib.blake2b(json.dumps(call, default=str).encode(), digest_size=16)
    return cache_folder() / "calls" / f"{digest.hexdigest()}.json"


def _states(folder: Path) -> Collection[object]:
    """Name, size and time of each file of decoded images; locks say nothing."""
    files = sorted(path for path in folder.rglob("*") if path.suffix != ".lock" and path.is_file())
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
