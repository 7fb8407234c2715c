"""What a grid over one setting says of one seed: how good its settings are, how many collapse, and how well a criterion
picks and orders them.

Pure functions of a frame with a row for each setting, in their order, and the metrics of its run as columns; whether it
has collapsed stands in columns `collapsed/<kind>`. What is not defined is a sentence that says why.
"""

from typing import TypeVar

import numpy as np
import pandas as pd

from reports.statistics import findings
from sweeps.record import Tag

ACCURACY, AMI = "probe/accuracy", "codes/ami"
BY_CRITERION = {"regret": (ACCURACY,), "rank_accuracy": (ACCURACY,), "rank_ami": (ACCURACY, AMI)}
"""Quantities that a criterion has, with the metrics that each needs beside the criterion."""
LEAST_SETTINGS = 3  # For a rank correlation: of two settings it is 1 or -1, whatever they are.
NAMES = {"probe/accuracy": "linear accuracy", "codes/ami": "AMI of the codes"}

T = TypeVar("T", float, pd.Series)


def worth(score: T, better: str) -> T:
    """How good a score is, the more the better; `better` is higher, lower or nearest 1.

    >>> worth(1.5, "nearest 1")
    -0.5
    """
    if better == "nearest 1":
        return -abs(score - 1)
    return -score if better == "lower" else score


def run_collapses(runs: pd.DataFrame) -> pd.DataFrame:
    """Columns `collapsed/<kind>` of 0 and 1 for each run of a frame, by its id, after the rules of `findings`.

    The rules need the number of test images (`test_images`, unknown: NaN) and of classes of a data set, so runs of each
    `dataset` are judged together. A run that was stopped on a collapse has that one, and 1 in the column `stopped`.
    """
    stopped = runs.reindex(columns=[Tag.COLLAPSE.column])[Tag.COLLAPSE.column].where(runs["status"] != "FINISHED")
    parts = []
    for _, part in runs.assign(row=runs["run_id"]).groupby("dataset"):
        images = part["test_images"].max() if "test_images" in part else np.nan
        parts.append(findings.collapsed(findings.row_means(part), None if pd.isna(images) else int(images)))
    collapsed = pd.concat(parts) if parts else pd.DataFrame()
    for kind in collapsed:
        collapsed[kind] |= stopped.set_axis(runs["run_id"]).reindex(collapsed.index) == kind
    collapsed.insert(0, "any", collapsed.any(axis=1))
    was_stopped = stopped.notna().set_axis(runs["run_id"]).reindex(collapsed.index)
    return collapsed.astype(float).add_prefix("collapsed/").assign(stopped=was_stopped.astype(float))


def quantity(name: str, settings: pd.DataFrame, better: str = "higher") -> float | str:
    """A quantity of the settings of one seed, or why it is not defined.

    `grid/settings` is their number; `grid/best`, `grid/worst`, `grid/mean` are linear accuracies of those that have not
    collapsed, `grid/mean_all` that of all. `collapsed/<kind>` is the share that has collapsed. `regret/<criterion>` is
    the accuracy of the best setting minus that of the setting with the best criterion, of equal ones the first.
    `rank_accuracy/<criterion>` and `rank_ami/<criterion>` are Spearman's rank correlations of the criterion, turned so
    that more is better, with accuracy and AMI. Settings whose training was stopped (1 in `stopped`) enter the shares
    alone.

    >>> settings = pd.DataFrame({"probe/accuracy": [0.7, 0.9, 0.8], "select/rankme": [3, 2, 1]})
    >>> round(quantity("regret/select/rankme", settings), 3), quantity("rank_accuracy/select/rankme", settings)
    (0.2, -0.5)
    """
    kind, _, rest = name.partition("/")
    if name == "grid/settings":
        return float(len(settings))
    if kind == "collapsed":
        return float(settings[name].mean())
    if "stopped" in settings:
        settings = settings[settings["stopped"] == 0]
    if settings.empty:
        return "every setting was stopped on a collapse"
    if kind == "grid":
        alive = settings if rest == "mean_all" else settings[settings["collapsed/any"] == 0]
        if alive.empty:
            return "every setting has collapsed"
        return float(alive[ACCURACY].agg({"best": "max", "worst": "min"}.get(rest, "mean")))
    scored = settings[np.isfinite(settings[rest])]
    if scored.empty:
        return f"no run has {rest}"
    scores = worth(scored[rest], better)
    if kind == "regret":
        return float(settings[ACCURACY].max() - scored[ACCURACY][scores.idxmax()])
    target = AMI if kind == "rank_ami" else ACCURACY
    return rank_correlation(scores, scored[target], rest, NAMES[target])


def rank_correlation(first: pd.Series, second: pd.Series, first_name: str, second_name: str) -> float | str:
    """Spearman's rank correlation over the settings in which both are finite, equal values sharing their mean rank."""
    from scipy.stats import spearmanr  # It takes a second to import.

    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < LEAST_SETTINGS:
        return f"fewer than {LEAST_SETTINGS} settings have {first_name} and {second_name}"
    for values, name in ((first[both], first_name), (second[both], second_name)):
        if values.nunique() < 2:
            return f"all settings have the same {name}"
    return float(spearmanr(first[both], second[both]).statistic)
