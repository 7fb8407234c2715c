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
from optuna.trial import FrozenTrial, TrialState

from cplearn.config import trial as config
from cplearn.errors import InputError
from runner.planning.plan import Job, Plan
from runner.planning.survey import Searched
from runner.search import storage
from sweeps import identity
from sweeps.errors import UserError
from sweeps.file import Range, Scalar, SearchSettings
from sweeps.trials import Space


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
    dataset: str | None
    slug: str
    key: str
    name: str
    space: Space
    address: str
    study: optuna.Study | None = None

    @property
    def settings(self) -> SearchSettings:
        assert self.plan.sweep.search is not None
        return self.plan.sweep.search

    @property
    def opened(self) -> optuna.Study:
        assert self.study is not None
        return self.study

    def suggestions(self) -> list[Suggestion]:
        """All that was suggested, except for what a killed driver had not finished asking for."""
        trials = self.study.get_trials(deepcopy=False) if self.study else []
        return [
            Suggestion(self, trial.number, self._jobs(trial.params), trial.state)
            for trial in trials
            if self._is_whole(trial)
        ]

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
            yield from self._jobs(self.space.draw(generator))

    def begin(self) -> bool:
        """Make a new study; returns whether another of the same sweep and data set was there before."""
        known = storage.names(self.address)
        family = self.name.removesuffix(self.key[:8])
        count = sum(storage.number(self.name, name) > 0 for name in known)
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
            jobs = [self._job(trial.params, seed) for seed in self.plan.sweep.seeds]
        except (InputError, UserError):
            self.opened.tell(trial.number, state=TrialState.FAIL)
            raise
        trial.set_user_attr("keys", [job.key for job in jobs])
        return Suggestion(self, trial.number, jobs, TrialState.RUNNING)

    def _is_whole(self, trial: FrozenTrial) -> bool:
        return trial.params.keys() == self.space.axes.keys()

    def _jobs(self, point: Mapping[str, Scalar]) -> list[Job]:
        try:
            return [self._job(point, seed) for seed in self.plan.sweep.seeds]
        except (InputError, UserError):
            return []

    def _job(self, point: Mapping[str, Scalar], seed: int) -> Job:
        return self.plan.make(self.space.trial(point, self.dataset, seed))


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
        key = identity.trial_key(meaning, probe.fingerprint, config.NUMERICS)
        name = f"{plan.sweep.name} · {probe.dataset} · {key[:8]}"
        studies.append(DatasetStudy(plan, dataset, probe.dataset, key, name, space, address))
    with storage.reachable():
        known = storage.names(address)
        for study in studies:
            if newest := storage.newest(study.name, known):
                study.study = optuna.load_study(study_name=newest, storage=storage.opened(address))
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
