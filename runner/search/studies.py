"""Optuna's study of each data set of a sweep: what it may suggest, and what it has suggested."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from cplearn.config import trial as config
from cplearn.errors import InputError
from runner.planning.plan import Job, Plan, Searched
from runner.search import storage
from sweeps.errors import UserError
from sweeps.file import Range, Scalar, SearchSettings
from sweeps.settings import trial_key
from sweeps.trials import Space

MOST_BEST = 10
"""Most suggestions of a Pareto front that are named."""


@dataclass
class Suggestion:
    """A point of the space that a study has suggested, and its job of each seed; none where they do not fit."""

    study: DatasetStudy
    number: int
    jobs: list[Job]
    state: TrialState

    @property
    def open(self) -> bool:
        return self.state == TrialState.RUNNING

    @property
    def is_wanted(self) -> bool:
        """Whether all of its jobs should have finished in the end."""
        return self.state in (TrialState.RUNNING, TrialState.COMPLETE)

    def close(self, state: TrialState, values: Sequence[float] = ()) -> None:
        """Tell the study how the suggestion has ended; values that are not finite count as a failure."""
        if self.open:
            failed = state == TrialState.COMPLETE and not all(map(math.isfinite, values))
            self.state = TrialState.FAIL if failed else state
            complete = self.state == TrialState.COMPLETE
            self.study.opened.tell(self.number, list(values) if complete else None, self.state)


@dataclass
class DatasetStudy:
    """The study of one data set: where it is kept, what it may suggest; `study` is None as long as there is none.

    `key` tells studies of other spaces, objectives, seeds, settings or data apart.
    """

    plan: Plan
    settings: SearchSettings
    dataset: str | None
    slug: str
    key: str
    name: str
    space: Space
    address: str
    study: optuna.Study | None = None

    @property
    def opened(self) -> optuna.Study:
        assert self.study is not None
        return self.study

    def suggestions(self) -> list[Suggestion]:
        """All that was suggested, except for what a killed driver had not finished asking for."""
        suggestions = []
        for trial in self.study.get_trials(deepcopy=False) if self.study else []:
            if self._is_whole(trial):
                suggestions.append(Suggestion(self, trial.number, self._fitting_jobs(trial.params), trial.state))
        return suggestions

    def survey(self) -> Searched:
        """How far the study is."""
        suggestions = self.suggestions()
        name = self.study.study_name if self.study else ""
        done = sum(not suggestion.open for suggestion in suggestions)
        return Searched(self.slug, name, self.settings.trials, len(suggestions), done)

    def examples(self, count: int) -> Iterator[Job]:
        """Jobs of so many random points, which stand for suggestions to come where time is estimated; fewer where
        settings do not go together."""
        generator = random.Random(0)
        for _ in range(count):
            yield from self._fitting_jobs(self.space.draw(generator))

    def begin(self) -> bool:
        """Make a new study; returns whether another of the same sweep and data set was there before."""
        known = storage.names(self.address)
        family, count = self.name.removesuffix(self.key[:8]), len(storage.of_name(self.name, known))
        self.study = optuna.create_study(
            storage=storage.opened(self.address),
            study_name=f"{self.name} #{count + 1}" if count else self.name,
            directions=list(self.settings.objectives.values()),
        )
        with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
            self.study.set_metric_names(list(self.settings.objectives))
        return any(name.startswith(family) for name in known)

    def close_unasked(self) -> None:
        """End the suggestions that a killed driver had not finished asking for."""
        for trial in self.opened.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and not self._is_whole(trial):
                self.opened.tell(trial.number, state=TrialState.FAIL)

    def suggest(self) -> Suggestion:
        """Ask for one more suggestion. Raises InputError or UserError, and counts the suggestion as failed, where its
        settings do not go together."""
        number = len(self.opened.get_trials(deepcopy=False))
        # A sampler that is made again would repeat its draws; so each suggestion has draws of its own.
        draws = int(np.random.SeedSequence([self.settings.seed, number]).generate_state(1)[0])
        with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
            # The liar keeps suggestions apart whose values are not known yet.
            self.opened.sampler = optuna.samplers.TPESampler(
                n_startup_trials=self.settings.startup, seed=draws, constant_liar=True
            )
        trial = self.opened.ask({key: _distribution(axis) for key, axis in self.space.axes.items()})
        try:
            jobs = self._jobs(trial.params)
        except (InputError, UserError):
            self.opened.tell(trial.number, state=TrialState.FAIL)
            raise
        trial.set_user_attr("keys", [job.key for job in jobs])
        return Suggestion(self, trial.number, jobs, TrialState.RUNNING)

    def best(self) -> str:
        """The best suggestions in words (markdown); empty where none is complete."""
        complete = [trial for trial in self.opened.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
        if not complete:
            return ""
        seeds = len(self.plan.sweep.seeds)
        over = f"; means over {seeds} seeds" if seeds > 1 else ""
        if len(self.settings.objectives) == 1:
            sign = 1 if self.opened.direction == StudyDirection.MAXIMIZE else -1
            best, title = [max(complete, key=lambda trial: (sign * trial.values[0], -trial.number))], "Best"
        else:
            best, title = sorted(self.opened.best_trials, key=lambda trial: trial.number), "Pareto front"
        head = f"{title} of {len(complete)} complete suggestions on {self.slug} ({self.opened.study_name}{over}):"
        lines = []
        for trial in best[:MOST_BEST]:
            params = (
                (key, f"{value:.4g}" if isinstance(value, float) else value) for key, value in trial.params.items()
            )
            point = ", ".join(f"{key}={value}" for key, value in params)
            values = ", ".join(
                f"{name} {value:.4f}" for name, value in zip(self.settings.objectives, trial.values, strict=True)
            )
            lines.append(f"- {point}: {values} (suggestion {trial.number})")
        more = [f"- and {len(best) - MOST_BEST} more"] if len(best) > MOST_BEST else []
        return "\n".join([head, *lines, *more])

    def _is_whole(self, trial: FrozenTrial) -> bool:
        return trial.params.keys() == self.space.axes.keys()

    def _jobs(self, point: Mapping[str, Scalar]) -> list[Job]:
        """The job of each seed at a point; raises InputError or UserError where its settings do not go together."""
        return [self.plan.make(self.space.trial(point, self.dataset, seed)) for seed in self.plan.sweep.seeds]

    def _fitting_jobs(self, point: Mapping[str, Scalar]) -> list[Job]:
        try:
            return self._jobs(point)
        except (InputError, UserError):
            return []


def find(plan: Plan, address: str) -> list[DatasetStudy]:
    """The studies of a sweep, one for each data set, as far as they exist; creates nothing.

    Raises InputError where they cannot be read.
    """
    space, search = plan.sweep.space, plan.sweep.search
    assert space is not None
    assert search is not None
    studies = []
    axes = {key: axis.model_dump() if isinstance(axis, Range) else axis for key, axis in space.axes.items()}
    for dataset in space.datasets:
        probe = plan.make(next(space.probes(dataset, plan.sweep.seeds[0])))
        shared = {key: value for key, value in probe.trial.identity().items() if key not in {*space.axes, "seed"}}
        meaning = {"settings": shared, "axes": axes, "objectives": search.objectives, "seeds": plan.sweep.seeds}
        key = trial_key(meaning, probe.fingerprint, config.NUMERICS)
        name = f"{plan.sweep.name} · {probe.dataset} · {key[:8]}"
        studies.append(DatasetStudy(plan, search, dataset, probe.dataset, key, name, space, address))
    with storage.reachable():
        known = storage.names(address)
        for study in studies:
            if names := storage.of_name(study.name, known):
                study.study = optuna.load_study(study_name=names[-1], storage=storage.opened(address))
    return studies


def _distribution(axis: Sequence[Scalar] | Range) -> BaseDistribution:
    """An axis in Optuna's terms. Listed values are choices without an order."""
    if not isinstance(axis, Range):
        # True and 1 are not the same choice.
        return CategoricalDistribution(list({repr(value): value for value in axis}.values()))
    if axis.uniform:
        return FloatDistribution(*axis.uniform)
    if axis.log_uniform:
        return FloatDistribution(*axis.log_uniform, log=True)
    if axis.integers:
        return IntDistribution(*axis.integers)
    assert axis.choice is not None
    return _distribution(axis.choice)
