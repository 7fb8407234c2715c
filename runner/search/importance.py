"""Which setting matters: the share of a metric's variance that each setting of a sweep or a search explains."""

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

LOG_RANGE = 10  # Positive numbers that span such a factor or more count by their logarithm.


def importances(points: Sequence[Mapping[str, Any]], values: Sequence[float]) -> dict[str, float]:
    """The importance of each setting for some trials, the largest first; they sum to 1.

    `points` have the settings of each trial, all the same ones, `values` its metric. It is functional analysis of
    variance (Hutter et al., ICML 2014) as Optuna computes it: a random forest, here of a fixed seed, is fitted to the
    values, and the variance of its mean along each setting alone is taken. What settings do together is left out.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    columns = {name: [point[name] for point in points] for name in points[0]}
    for name, column in columns.items():
        if any(isinstance(item, bool) or not isinstance(item, int | float) for item in column):
            columns[name] = [repr(item) for item in column]
    space = {name: _distribution(column) for name, column in columns.items()}
    study = optuna.create_study()
    for row, value in zip(zip(*columns.values(), strict=True), values, strict=True):
        params = dict(zip(columns, row, strict=True))
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=value))
    with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _distribution(values: Sequence[Any]) -> "BaseDistribution":
    """Numbers as a range, by their logarithm where they span decades; anything else as choices without an order."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if isinstance(values[0], str):
        return CategoricalDistribution(list(dict.fromkeys(values)))
    low, high = min(values), max(values)
    return FloatDistribution(low, high, log=low > 0 and high / low >= LOG_RANGE)
