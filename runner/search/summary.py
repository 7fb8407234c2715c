"""The best suggestions of a search in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import TrialState

from runner.planning import criteria
from runner.search.studies import DatasetStudy

MOST_BEST = 10
"""Most suggestions of a Pareto front that are named."""


def summary(studies: Iterable[DatasetStudy], objectives: list[str]) -> str:
    """The best suggestions of each study in markdown, and which split they were chosen on."""
    parts = [part for study in studies if (part := _best(study, objectives))]
    if test := criteria.of_test_split(objectives):
        parts.append(
            f"**Chosen by the test split** ({', '.join(test)}): the numbers of the best trials are too good, and "
            "not to be compared with those of methods that were not chosen so."
        )
    return "\n\n".join(parts)


def _best(study: DatasetStudy, objectives: list[str]) -> str:
    trials = study.opened.get_trials(deepcopy=False)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return ""
    seeds = len(study.plan.sweep.seeds)
    over = f"; means over {seeds} seeds" if seeds > 1 else ""
    if len(objectives) == 1:
        sign = 1 if study.opened.direction == StudyDirection.MAXIMIZE else -1
        best = [max(complete, key=lambda trial: (sign * trial.values[0], -trial.number))]
        head = f"Best of {len(complete)} complete suggestions on {study.slug}"
    else:
        best = sorted(study.opened.best_trials, key=lambda trial: trial.number)
        head = f"Pareto front of {len(complete)} complete suggestions on {study.slug}"
    lines = [f"{head} ({study.opened.study_name}{over}):"]
    for trial in best[:MOST_BEST]:
        point = ", ".join(f"{key}={_spelled(value)}" for key, value in trial.params.items())
        values = ", ".join(f"{name} {value:.4f}" for name, value in zip(objectives, trial.values, strict=True))
        lines.append(f"- {point}: {values} (suggestion {trial.number})")
    lines += [f"- and {len(best) - MOST_BEST} more"] if len(best) > MOST_BEST else []
    return "\n".join(lines)


def _spelled(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
