"""The search beyond a grid: Optuna's study of each data set, whose suggestions become jobs, and their results values.

The study lies beside the tracking store, and both survive the driver. Where they disagree after it was killed, each
mends the other: a suggestion without a value whose trials have finished gets its value, and one with a value whose
trials are not in the store has them run.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine, inspect, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import CreateSchema

from cplearn.config import trial as config
from cplearn.errors import InputError
from runner.durability.store_paths import companion
from runner.faults import FailureKind
from runner.planning import criteria
from runner.planning.plan import Job, Plan
from runner.planning.survey import Searched
from sweeps import identity
from sweeps.errors import UserError
from sweeps.file import Range, Scalar
from sweeps.trials import Space

optuna.logging.set_verbosity(optuna.logging.WARNING)

SCHEMA = "cplearn_studies"
"""In a PostgreSQL database; MLflow and Optuna each keep their version in a table of one name."""
MOST_BEST = 10
"""Trials of a Pareto front that are named in a note."""

Recall = Callable[[Collection[str]], Mapping[str, Mapping[str, Any]]]
"""Keys to what the tracking store has of each: `status`, `tags.failure`, `tags.stopped_by`, and its metrics by name."""


def beside(uri: str) -> str:
    """The address of the studies that belong to a tracking store: a SQLite file beside a SQLite file, a schema of the
    same PostgreSQL database; for any other store a file in the user's cache folder."""
    if uri.startswith("postgresql"):
        url = make_url(uri).update_query_dict({"options": f"-csearch_path={SCHEMA}"})
        return url.render_as_string(hide_password=False)
    return f"sqlite:///{companion(uri, 'studies')}"


@dataclass
class Suggestion:
    """A point of the space that a study has asked for, and its job of each seed."""

    study: StudyOf
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


@dataclass
class StudyOf:
    """The study of one data set: where it is kept, what it may ask for; `study` is None as long as there is none.

    `key` tells studies of other spaces, objectives, seeds, settings or data apart.
    """

    plan: Plan
    dataset: str | None
    slug: str
    key: str
    name: str
    space: Space
    study: optuna.Study | None = None

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {key: distribution(axis) for key, axis in self.space.axes.items()}

    def suggestions(self) -> list[Suggestion]:
        """All that the study has asked for, except for what a killed driver had not finished asking."""
        trials = self.study.get_trials(deepcopy=False) if self.study else []
        return [
            Suggestion(self, trial.number, self.jobs(trial.params), trial.state)
            for trial in trials
            if self.is_whole(trial)
        ]

    def is_whole(self, trial: FrozenTrial) -> bool:
        return trial.params.keys() == self.space.axes.keys()

    def jobs(self, point: Mapping[str, Scalar]) -> list[Job]:
        """The jobs of a point, one a seed; none where its settings do not go together."""
        try:
            return [self.make(point, seed) for seed in self.plan.sweep.seeds]
        except (InputError, UserError):
            return []

    def make(self, point: Mapping[str, Scalar], seed: int) -> Job:
        return self.plan.make(self.space.trial(point, self.dataset, seed))


def distribution(axis: Sequence[Scalar] | Range) -> BaseDistribution:
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
    return distribution(axis.choice)


def find(plan: Plan, storage: str) -> list[StudyOf]:
    """The studies of a sweep, one for each data set, as far as they exist; creates nothing.

    Raises InputError where they cannot be read.
    """
    space, search = plan.sweep.space, plan.sweep.search
    assert space is not None
    assert search is not None
    found = []
    for dataset in space.datasets:
        probe = plan.make(next(space.probes(dataset, plan.sweep.seeds[0])))
        own = {key: value for key, value in probe.trial.identity().items() if key not in {*space.axes, "seed"}}
        axes = {key: axis.model_dump() if isinstance(axis, Range) else axis for key, axis in space.axes.items()}
        meaning = {"settings": own, "axes": axes, "objectives": search.objectives, "seeds": plan.sweep.seeds}
        key = identity.trial_key(meaning, probe.fingerprint, config.NUMERICS)
        name = f"{plan.sweep.name} · {probe.dataset} · {key[:8]}"
        found.append(StudyOf(plan, dataset, probe.dataset, key, name, space))
    with _reachable():
        known = optuna.get_all_study_names(_storage(storage)) if _exists(storage) else []
        for one in found:
            if newest := _newest(one.name, known):
                one.study = optuna.load_study(study_name=newest, storage=_storage(storage))
    return found


class Search:
    """Asks the studies of a sweep for jobs, and tells them what has become of each; a `runner.events.Listener`.

    At most one driver at a time may have it: whoever holds the claims of `keys`. Suggestions that an earlier driver has
    left without a value come first. `recall` looks into the tracking store, `claim` keeps other drivers from a job,
    `announce` is called when `plan` has got further jobs. `anew` starts new studies and recalls nothing.

    A suggestion's value is the mean of each objective over the seeds. One that diverges at any seed fails, one that the
    scheduler stops at any seed is pruned; both count, and their other seeds are not begun. After any other failure it
    stays open, to be run again by the next call.
    """

    def __init__(
        self,
        plan: Plan,
        storage: str,
        recall: Recall,
        *,
        anew: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        assert plan.sweep.search is not None
        self.plan, self.settings = plan, plan.sweep.search
        self.recall: Recall = (lambda keys: {}) if anew else recall
        self.say = say
        self.claim: Callable[[str], bool] = lambda key: True
        self.announce: Callable[[], None] = lambda: None
        self.objectives = list(self.settings.objectives)
        self.asked: dict[str, int] = {}
        """How many suggestions each study has."""
        self.waiting: dict[str, list[Suggestion]] = {}
        """Who waits for the end of a trial."""
        self.ended: dict[str, list[float] | TrialState] = {}
        """The objectives of trials that have finished, and how others have ended for good."""
        self.queue: deque[Job] = deque()
        self.elsewhere: list[Job] = []
        """Jobs that another driver runs."""
        self.given: set[str] = set()
        """Jobs that are queued, here or elsewhere, or handed out."""
        self.mending: set[str] = set()
        """Jobs of suggestions that have their values already."""
        self.studies = find(plan, storage)
        with _reachable():
            for one in self.studies:
                self._open(one, storage, anew)
            self._go_on()

    # What the driver asks.

    def more(self) -> Job | None:
        """The next job to run; None if there is none now."""
        with _reachable():
            self._look_elsewhere()
            while True:
                while self.queue:
                    job = self.queue.popleft()
                    if not self._is_wanted(job.key):
                        self.given.discard(job.key)
                        continue
                    if self.claim(job.key):
                        return job
                    self.elsewhere.append(job)
                if not self._suggest():
                    return None

    @property
    def to_come(self) -> int:
        """Jobs that `more` may still give."""
        return sum(self._is_wanted(job.key) for job in self.queue) + self.room * len(self.plan.sweep.seeds)

    @property
    def room(self) -> int:
        """Suggestions that are still to be asked for."""
        return sum(max(0, self.settings.trials - count) for count in self.asked.values())

    @property
    def tags(self) -> dict[str, str]:
        """What the sweep's run says of its studies."""
        return {"cplearn.study": ", ".join(one.study.study_name for one in self.studies if one.study)}

    # Events of jobs.

    def planned(self, jobs: Sequence[Job]) -> None:
        pass

    def started(self, job: Job) -> None:
        pass

    def resumed(self, job: Job, history: Sequence[tuple[int, int, Mapping[str, float]]]) -> None:
        pass

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
        pass

    def noted(self, job: Job, text: str) -> None:
        pass

    def finished(
        self, job: Job, metrics: Mapping[str, float], files: Mapping[str, bytes], hardware: Mapping[str, str]
    ) -> None:
        with _reachable():
            self._finish(job, metrics)

    def failed(self, job: Job, reason: str, kind: FailureKind) -> None:
        if kind == "diverged":
            with _reachable():
                self._end(job.key, TrialState.FAIL)

    def stopped(self, job: Job, epoch: int, reason: str) -> None:
        with _reachable():
            self._end(job.key, TrialState.PRUNED)

    # Studies.

    def _open(self, one: StudyOf, storage: str, anew: bool) -> None:
        """Load the study, or begin one; say so where the sweep had another before."""
        if one.study is None or anew:
            before = optuna.get_all_study_names(_storage(storage))
            family = one.name.removesuffix(one.key[:8])
            if one.study is None and any(name.startswith(family) for name in before):
                self.say(
                    f"axes, objectives, seeds or settings on {one.slug} are not those of its earlier study, so a new "
                    "one begins; trials that have finished are still not run again"
                )
            count = sum(_number(one.name, name) > 0 for name in before)
            name = f"{one.name} #{count + 1}" if count else one.name
            one.study = optuna.create_study(
                storage=_storage(storage), study_name=name, directions=list(self.settings.objectives.values())
            )
            with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
                one.study.set_metric_names(self.objectives)
        for trial in one.study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING and not one.is_whole(trial):
                # The driver was killed while it asked.
                one.study.tell(trial.number, state=TrialState.FAIL)

    def _go_on(self) -> None:
        """Take up what the studies have asked for before: those without a value first, then what the store has lost."""
        known = [suggestion for one in self.studies for suggestion in one.suggestions()]
        self.asked = {one.key: sum(s.study is one for s in known) for one in self.studies}
        records = self.recall({job.key for suggestion in known for job in suggestion.jobs})
        for suggestion in sorted(known, key=lambda s: not s.open):
            if suggestion.open:
                self._take_up(suggestion, records)
            elif suggestion.is_wanted:
                self.plan.add(suggestion.jobs)
                lost = [job for job in suggestion.jobs if records.get(job.key, {}).get("status") != "FINISHED"]
                self.mending |= {job.key for job in lost}
                self._enqueue(lost)
            else:
                self.plan.add(job for job in suggestion.jobs if job.key in records)

    def _suggest(self) -> bool:
        """Ask for one more suggestion; False if there are enough."""
        one = min(self.studies, key=lambda study: self.asked[study.key])
        if self.asked[one.key] >= self.settings.trials:
            return False
        assert one.study is not None
        number = len(one.study.get_trials(deepcopy=False))
        # A sampler that is made again would repeat its draws; so each suggestion has draws of its own.
        draws = int(np.random.SeedSequence([self.settings.seed, number]).generate_state(1)[0])
        with warnings.catch_warnings(category=optuna.exceptions.ExperimentalWarning, action="ignore"):
            # The liar keeps suggestions apart whose values are not known yet.
            one.study.sampler = optuna.samplers.TPESampler(
                n_startup_trials=self.settings.startup, seed=draws, constant_liar=True
            )
        trial = one.study.ask(one.distributions)
        self.asked[one.key] += 1
        try:
            jobs = [one.make(trial.params, seed) for seed in self.plan.sweep.seeds]
        except (InputError, UserError) as error:
            one.study.tell(trial.number, state=TrialState.FAIL)
            self.say(f"suggestion {trial.number} has settings that do not go together and counts as failed: {error}")
            return True
        trial.set_user_attr("keys", [job.key for job in jobs])
        suggestion = Suggestion(one, trial.number, jobs, TrialState.RUNNING)
        self._take_up(suggestion, self.recall({job.key for job in jobs}))
        self.announce()
        return True

    # Suggestions.

    def _take_up(self, suggestion: Suggestion, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Tell the study at once what is known, and queue what is to be run."""
        if not suggestion.jobs:
            # Settings that went together when it was asked for do so no more.
            self._tell(suggestion, TrialState.FAIL)
            return
        self.plan.add(suggestion.jobs)
        for job in suggestion.jobs:
            self.waiting.setdefault(job.key, []).append(suggestion)
            if not self._settle(job, records.get(job.key, {})):
                self._enqueue([job])

    def _enqueue(self, jobs: Iterable[Job]) -> None:
        # Of an equal point that was suggested before and is under way, the result is waited for.
        new = [job for job in jobs if job.key not in self.given]
        self.given |= {job.key for job in new}
        self.queue.extend(new)

    def _settle(self, job: Job, record: Mapping[str, Any]) -> bool:
        """Whether the trial needs not be run: it has ended before, here or as the store has it."""
        if job.key in self.ended:
            self._conclude(job.key)
        elif record.get("status") == "FINISHED":
            self._finish(job, record)
        elif record.get("status") == "FAILED" and record.get("tags.failure") == "diverged":
            self._end(job.key, TrialState.FAIL)
        elif (
            record.get("status") == "KILLED"
            and self.plan.stopper
            and record.get("tags.stopped_by") == self.plan.stopper
        ):
            self._end(job.key, TrialState.PRUNED)
        else:
            return False
        return True

    def _finish(self, job: Job, metrics: Mapping[str, Any]) -> None:
        if job.key not in self.waiting and job.key not in self.mending:
            return  # A baseline.
        if absent := [name for name in self.objectives if name not in metrics]:
            raise InputError(
                f"search.objectives: {absent[0]!r} is not measured for method {job.trial.method.name!r} "
                f"({job.dataset} {job.name}); choose another objective"
            )
        self._end(job.key, [float(metrics[name]) for name in self.objectives])

    def _end(self, key: str, how: list[float] | TrialState) -> None:
        self.ended[key] = how
        self.mending.discard(key)
        self._conclude(key)

    @property
    def finished_keys(self) -> set[str]:
        """Trials whose results the studies have, or will have with those of other seeds."""
        return {key for key, how in self.ended.items() if isinstance(how, list)}

    def _conclude(self, key: str) -> None:
        """Tell the studies of the suggestions that have waited for this trial: at once if it has no values, else if it
        was the last of its suggestion."""
        for suggestion in self.waiting.pop(key, []):
            ends = [self.ended.get(job.key) for job in suggestion.jobs]
            if lost := next((end for end in ends if isinstance(end, TrialState)), None):
                self._tell(suggestion, lost)
                continue
            values = [end for end in ends if isinstance(end, list)]
            if len(values) == len(ends):
                means = [statistics.fmean(each) for each in zip(*values, strict=True)]
                finite = all(map(math.isfinite, means))
                self._tell(suggestion, *((TrialState.COMPLETE, means) if finite else (TrialState.FAIL,)))

    def _tell(self, suggestion: Suggestion, state: TrialState, values: list[float] | None = None) -> None:
        if suggestion.open:
            suggestion.state = state
            assert suggestion.study.study is not None
            suggestion.study.study.tell(suggestion.number, values, state)

    def _is_wanted(self, key: str) -> bool:
        return key in self.mending or any(suggestion.open for suggestion in self.waiting.get(key, ()))

    def _look_elsewhere(self) -> None:
        """Take back the jobs that other drivers no longer run."""
        mine = [job for job in self.elsewhere if self.claim(job.key)]
        self.elsewhere = [job for job in self.elsewhere if job not in mine]
        records = self.recall({job.key for job in mine}) if mine else {}
        self.queue.extend(job for job in mine if not self._settle(job, records.get(job.key, {})))

    # Results.

    def summary(self) -> str:
        """The best suggestions of each study in words (markdown), and which split they were chosen on."""
        parts = [part for one in self.studies if (part := self._best(one))]
        if test := criteria.of_test_split(self.objectives):
            parts.append(
                f"**Chosen by the test split** ({', '.join(test)}): the numbers of the best trials are too good, and "
                "not to be compared with those of methods that were not chosen so."
            )
        return "\n\n".join(parts)

    def _best(self, one: StudyOf) -> str:
        assert one.study is not None
        complete = [trial for trial in one.study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
        if not complete:
            return ""
        seeds = len(self.plan.sweep.seeds)
        over = f"; means over {seeds} seeds" if seeds > 1 else ""
        if len(self.objectives) == 1:
            upwards = one.study.direction == StudyDirection.MAXIMIZE
            best = [max(complete, key=lambda trial: (trial.values[0] if upwards else -trial.values[0], -trial.number))]
            head = f"Best of {len(complete)} complete suggestions on {one.slug}"
        else:
            best = sorted(one.study.best_trials, key=lambda trial: trial.number)
            head = f"Pareto front of {len(complete)} complete suggestions on {one.slug}"
        lines = [f"{head} ({one.study.study_name}{over}):"]
        for trial in best[:MOST_BEST]:
            point = ", ".join(f"{key}={_spelled(value)}" for key, value in trial.params.items())
            values = ", ".join(f"{n} {v:.4f}" for n, v in zip(self.objectives, trial.values, strict=True))
            lines.append(f"- {point}: {values} (suggestion {trial.number})")
        lines += [f"- and {len(best) - MOST_BEST} more"] if len(best) > MOST_BEST else []
        return "\n".join(lines)


def surveyed(one: StudyOf) -> Searched:
    """How far a study is."""
    assert one.plan.sweep.search is not None
    known = one.suggestions()
    name = one.study.study_name if one.study else ""
    done = sum(not suggestion.open for suggestion in known)
    return Searched(one.slug, name, one.plan.sweep.search.trials, len(known), done)


def example_jobs(one: StudyOf, count: int) -> Iterator[Job]:
    """Jobs of so many random points, to stand for suggestions that are still to be asked for where time is estimated;
    fewer where settings do not go together."""
    generator = random.Random(0)
    for _ in range(count):
        yield from one.jobs(one.space.draw(generator))


def _spelled(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(name: str, found: str) -> int:
    """Which study of this name a found one is, counted from 1; 0 if it is none."""
    if found == name:
        return 1
    head, _, number = found.rpartition(" #")
    return int(number) if head == name and number.isdigit() else 0


def _newest(name: str, known: Collection[str]) -> str | None:
    return max((one for one in known if _number(name, one)), key=lambda one: _number(name, one), default=None)


def _file(storage: str) -> Path | None:
    """The file of a SQLite address; None for a server."""
    return Path(storage.partition(":///")[2]) if storage.startswith("sqlite:") else None


def _exists(storage: str) -> bool:
    if path := _file(storage):
        return path.is_file()
    return inspect(create_engine(storage, poolclass=NullPool)).has_schema(SCHEMA)


@functools.cache
def _storage(address: str) -> optuna.storages.RDBStorage:
    """The storage at an address; makes its file or schema where there is none."""
    if path := _file(address):
        path.parent.mkdir(parents=True, exist_ok=True)
    else:
        with create_engine(address, poolclass=NullPool).begin() as connection:
            connection.execute(CreateSchema(SCHEMA, if_not_exists=True))
    return optuna.storages.RDBStorage(address)


@contextmanager
def _reachable() -> Iterator[None]:
    """An error of the studies' database is one sentence, without its address."""
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError) as error:
        # What the database itself says; SQLAlchemy adds the statement and Optuna hides it.
        cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else error
        reason = " ".join(str(getattr(cause, "orig", None) or type(cause).__name__).split())
        raise InputError(f"the studies beside the tracking store cannot be used: {reason}") from error
