"""Optuna's study of each data set of a sweep: what it may suggest, what it has suggested, and where it is kept."""

import functools
import math
import random
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine, inspect, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

from cplearn.config import trial as config
from cplearn.errors import InputError
from runner.machine.folders import companion
from runner.planning.plan import Job, Plan, Searched
from sweeps.errors import UserError
from sweeps.file import Range, Scalar
from sweeps.secrets import hide_secrets
from sweeps.settings import trial_key

optuna.logging.set_verbosity(optuna.logging.WARNING)

MOST_BEST = 10  # Most suggestions of a Pareto front that are named.
DATABASE_SCHEMA = "cplearn_studies"
"""The schema of studies in a PostgreSQL database; MLflow and Optuna each keep their version in a table of one name."""


@dataclass
class Suggestion:
    """A point of the space that a study has suggested, and its job of each seed; none where its settings do not go
    together, which `fault` explains."""

    study: "DatasetStudy"
    number: int
    state: TrialState
    jobs: list[Job]
    fault: str = ""

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
            is_finite = all(map(math.isfinite, values))
            self.state = state if is_finite else TrialState.FAIL
            self.study.opened.tell(self.number, list(values) or None if is_finite else None, self.state)


class DatasetStudy:
    """The study of one data set of a sweep: what it may suggest, and what it has suggested.

    `key` tells studies of other spaces, objectives, seeds, settings or data apart. `study` is None as long as there is
    none; making this creates nothing. Raises InputError where studies cannot be read.
    """

    def __init__(self, plan: Plan, dataset: str | None, address: str) -> None:
        assert plan.sweep.space is not None
        assert plan.sweep.search is not None
        self.plan, self.dataset, self.address = plan, dataset, address
        self.space, self.settings = plan.sweep.space, plan.sweep.search
        axes = {key: axis.model_dump() if isinstance(axis, Range) else axis for key, axis in self.space.axes.items()}
        probe = plan.make(next(self.space.probes(dataset, plan.sweep.seeds[0])))
        identity = probe.trial.identity() | probe.trial.code_from_outside()
        shared = {key: value for key, value in identity.items() if key not in {*axes, "seed"}}
        meaning = {"settings": shared, "axes": axes, "objectives": self.settings.objectives, "seeds": plan.sweep.seeds}
        self.slug = probe.dataset
        self.key = trial_key(meaning, probe.fingerprint, config.NUMERICS)
        self.name = f"{plan.sweep.name} · {self.slug} · {self.key[:8]}"
        self.study: optuna.Study | None = None
        with reachable():
            if existing := of_name(self.name, names(address)):
                self.study = optuna.load_study(study_name=existing[-1], storage=opened_storage(address))

    @property
    def opened(self) -> optuna.Study:
        assert self.study is not None
        return self.study

    def suggestions(self) -> list[Suggestion]:
        """All that was suggested, except for what a killed driver had not finished asking for."""
        trials = self.study.get_trials(deepcopy=False) if self.study else []
        whole = [trial for trial in trials if self._is_whole(trial)]
        return [self._at(trial.params, trial.number, trial.state) for trial in whole]

    def survey(self) -> Searched:
        """How far the study is."""
        states = [suggestion.open for suggestion in self.suggestions()]
        name = self.study.study_name if self.study else ""
        return Searched(self.slug, name, self.settings.trials, len(states), states.count(False))

    def examples(self, count: int) -> Iterator[Job]:
        """Jobs of so many random points, which stand for suggestions to come where time is estimated."""
        generator = random.Random(0)
        for _ in range(count):
            yield from self._at(self.space.draw(generator)).jobs

    def begin(self) -> bool:
        """Make a new study; returns whether another of the same sweep and data set was there before."""
        existing = names(self.address)
        family, count = self.name.removesuffix(self.key[:8]), len(of_name(self.name, existing))
        self.study = optuna.create_study(
            storage=opened_storage(self.address),
            study_name=f"{self.name} #{count + 1}" if count else self.name,
            directions=list(self.settings.objectives.values()),
        )
        with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
            self.study.set_metric_names(list(self.settings.objectives))
        return any(name.startswith(family) for name in existing)

    def close_unasked(self) -> None:
        """End the suggestions that a killed driver had not finished asking for."""
        for trial in self.opened.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and not self._is_whole(trial):
                self.opened.tell(trial.number, state=TrialState.FAIL)

    def suggest(self) -> Suggestion:
        """Ask for one more suggestion."""
        number = len(self.opened.get_trials(deepcopy=False))
        # A sampler that is made again would repeat its draws; so each suggestion has draws of its own.
        draws = int(np.random.SeedSequence([self.settings.seed, number]).generate_state(1)[0])
        with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
            # The liar keeps suggestions apart whose values are not known yet.
            self.opened.sampler = optuna.samplers.TPESampler(
                n_startup_trials=self.settings.startup, seed=draws, constant_liar=True
            )
        trial = self.opened.ask({key: _distribution(axis) for key, axis in self.space.axes.items()})
        suggestion = self._at(trial.params, trial.number)
        trial.set_user_attr("keys", [job.key for job in suggestion.jobs])
        return suggestion

    def best(self) -> str:
        """The best suggestions in words (markdown); empty where none is complete."""
        complete = [trial for trial in self.opened.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
        if not complete:
            return ""
        seeds = len(self.plan.sweep.seeds)
        over = f"; means over {seeds} seeds" if seeds > 1 else ""
        best, title = sorted(self.opened.best_trials, key=lambda trial: trial.number), "Pareto front"
        if len(self.settings.objectives) == 1:
            best, title = best[:1], "Best"
        lines = [f"{title} of {len(complete)} complete suggestions on {self.slug} ({self.opened.study_name}{over}):"]
        for trial in best[:MOST_BEST]:
            numbers = zip(self.settings.objectives, trial.values, strict=True)
            values = ", ".join(f"{name} {value:.4f}" for name, value in numbers)
            point = ", ".join(
                f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}"
                for key, value in trial.params.items()
            )
            lines.append(f"- {point}: {values} (suggestion {trial.number})")
        lines += [f"- and {len(best) - MOST_BEST} more"] if len(best) > MOST_BEST else []
        return "\n".join(lines)

    def _is_whole(self, trial: FrozenTrial) -> bool:
        return trial.params.keys() == self.space.axes.keys()

    def _at(self, point: Mapping[str, Scalar], number: int = 0, state: TrialState = TrialState.RUNNING) -> Suggestion:
        try:
            jobs = [self.plan.make(self.space.trial(point, self.dataset, seed)) for seed in self.plan.sweep.seeds]
            return Suggestion(self, number, state, jobs)
        except (InputError, UserError) as error:
            return Suggestion(self, number, state, [], str(error))


def find(plan: Plan, address: str) -> list[DatasetStudy]:
    """The studies of a sweep, one for each data set, as far as they exist."""
    assert plan.sweep.space is not None
    return [DatasetStudy(plan, dataset, address) for dataset in plan.sweep.space.datasets]


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


def beside(uri: str) -> str:
    """The address of the studies that belong to a tracking store: a SQLite file beside a SQLite file, a schema of the
    same PostgreSQL database; for any other store, by its identity, a file in the user's cache folder."""
    if uri.startswith("postgresql"):
        url = make_url(uri).update_query_dict({"options": f"-csearch_path={DATABASE_SCHEMA}"})
        return url.render_as_string(hide_password=False)
    return f"sqlite:///{companion(uri, 'studies')}"


@functools.cache
def opened_storage(address: str) -> optuna.storages.RDBStorage:
    """The storage at an address; makes its file or schema where there is none."""
    if path := _file(address):
        path.parent.mkdir(parents=True, exist_ok=True)
    else:
        with create_engine(address, poolclass=NullPool).begin() as connection:
            connection.execute(CreateSchema(DATABASE_SCHEMA, if_not_exists=True))
    return optuna.storages.RDBStorage(address)


def names(address: str) -> list[str]:
    """The names of all studies at an address; creates nothing."""
    path = _file(address)
    exists = path.is_file() if path else inspect(create_engine(address, poolclass=NullPool)).has_schema(DATABASE_SCHEMA)
    return optuna.get_all_study_names(opened_storage(address)) if exists else []


def of_name(name: str, known: Collection[str]) -> list[str]:
    """The studies of a name, the oldest first; those that were begun anew end in ` #2` and so on.

    >>> of_name("beta", ["beta #10", "beta #2", "betas", "beta"])
    ['beta', 'beta #2', 'beta #10']
    """
    studies = [study for study in known if re.fullmatch(rf"{re.escape(name)}( #\d+)?", study)]
    return sorted(studies, key=lambda study: (len(study), study))


@contextmanager
def reachable() -> Iterator[None]:
    """An error of the studies' database is one sentence, without its address."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError) as error:
        # What the database itself says; SQLAlchemy adds the statement and Optuna hides it.
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        reason = " ".join(hide_secrets(str(getattr(cause, "orig", None) or type(cause).__name__)).split())
        raise InputError(f"the studies beside the tracking store cannot be used: {reason}") from error


def _file(address: str) -> Path | None:
    """The file of a SQLite address; None for a server."""
    return Path(address.partition(":///")[2]) if address.startswith("sqlite") else None
