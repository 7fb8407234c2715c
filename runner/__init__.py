"""Executes sweeps: plan, search, execution on Ray, tracking in MLflow, reports; `sweep` is the way in from Python.

Its rooms know little of each other: `planning` knows no Ray, `execution` alone imports it, `search` alone Optuna,
`tracking` alone writes to MLflow. `driver` ties them together, and only it and the command line import `reports`.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.driver.result import SweepResult


# Ray and Tune read these when they are imported or a sweep starts. Tune's own handler of Ctrl-C ends `fit` as if all
# were done; of its two displays, only the older one can be silenced. Tune asks for so many trials ahead of free slots:
# the dispatcher limits them itself, and with 1, which is Tune's default, workers would start one by one.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "1000")


def sweep(
    name: str,
    *,
    dataset: str | None = None,
    seeds: int | None = None,
    epochs: int | None = None,
    settings: Mapping[str, Any] | None = None,
    quiet: bool = False,
    **options: Any,
) -> "SweepResult":
    """Run a sweep as `cplearn sweep` does, from a notebook for instance; what has finished before is not run again.

    `name` is that of a sweep or the path of its file; `settings` are dotted settings, of which a list makes an axis.
    Further `options` are those of `runner.driver.options.SweepOptions`. Unless `quiet`, sentences are printed.

    >>> result = sweep("beta", dataset="digits", seeds=3, settings={"method.codes": 512})  # doctest: +SKIP
    >>> result.table  # A DataFrame: a row for each point, a column for each metric. # doctest: +SKIP
    >>> result.runs  # A DataFrame: a row for each trial. # doctest: +SKIP
    >>> result.report  # The path of report.html. # doctest: +SKIP
    >>> result.failed  # Trials without a result. # doctest: +SKIP

    Raises `cplearn.errors.InputError` or `sweeps.errors.UserError`, with one sentence, where it cannot be run as asked.
    """
    from runner.driver.options import Observer, Printer, SweepOptions
    from runner.driver.result import SweepResult
    from runner.driver.run import SweepRun

    asked = SweepOptions(name, dataset, seeds, epochs, settings or {}, **options)
    run = SweepRun(asked, Observer() if quiet else Printer())
    run.run()
    return SweepResult(run.report(), run.failures, run.complete)
