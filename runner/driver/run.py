"""A sweep's way from its file to its report: the one place that ties planning, execution, tracking and reports."""

import functools
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import cplearn.data
from cplearn.errors import InputError
from reports import store
from runner.driver.options import Observer, SweepOptions
from runner.driver.repeated import remember
from runner.driver.result import Failure, SweepSurvey, Tally, summary
from runner.durability.checkpoints import Checkpoints
from runner.durability.claims import claims_of, looking_at
from runner.events import Listener
from runner.execution.contract import ExecutionOptions, Steering
from runner.machine import resources as machine
from runner.machine.folders import check_folder, temporary_place
from runner.machine.resources import Resources
from runner.planning.budget import Deadline
from runner.planning.plan import SCHEMA, Job, Searched, Surveyed, make_plan, survey
from runner.search.importance import importances
from runner.timing.forecast import Forecast, Machine, forecast
from runner.timing.progress_estimate import ProgressEstimate
from runner.tracking.database import check_store
from sweeps.addresses import resolve
from sweeps.errors import UserError
from sweeps.file import AshaSettings
from sweeps.loading import find
from sweeps.spec import Sweep, read_sweep

if TYPE_CHECKING:
    from reports.build import Report
    from runner.search.search import Search
    from runner.tracking.tracker import Tracker

# Optuna, Ray, MLflow and pandas take seconds to import: each is imported where it is first needed, so that a plan, a
# sweep without a search, or one with nothing to run, does without.

AT_STOP_SECONDS = 10  # How long a stopped sweep waits for the tracking store.

AGAIN = "run the same command again to do what is missing"


class SweepRun(Steering):
    """One call of a sweep: `survey` says what is to be done, `run` does it, `report` writes the tables.

    Making it reads the sweep's file and fetches its data. Raises InputError or UserError, before anything is started,
    where the sweep cannot be run as asked.
    """

    def __init__(self, options: SweepOptions, observer: Observer | None = None) -> None:
        self.options, self.observer = options, observer or Observer()
        self.deadline = Deadline(options.budget)
        temporary_place()
        sweep = read_sweep(find(options.sweep), SCHEMA, options.overrides, options.seeds, options.scale)
        if sweep.tables:  # Not only when all has been run.
            from reports.tables import spec

            for name in sweep.tables:
                spec.read(name)
        self.resources = _resources(sweep, options)
        self.observer.doing("Preparing the data")
        self.plan = make_plan(sweep, options.data_root, self.resources.processes)
        if options.retry_failed and sweep.search:
            raise InputError("--retry-failed: a study keeps what has diverged as failed; --force begins a new study")
        self.uri = resolve(options.tracking_uri)
        check_folder("--results", options.results)
        if "://" not in options.checkpoints:
            check_folder("--checkpoints", Path(options.checkpoints))
        check_store(self.uri)
        self.checkpoints = Checkpoints(options.checkpoints)
        self.search: Search | None = None
        self.failures: list[Failure] = []
        self.reused = 0
        self.complete = False

    def survey(self) -> SweepSurvey:
        """What is to be run, for how long and with how much disk; starts nothing."""
        with looking_at(self.uri):
            searched, wanted, examples = self._look_at_search()
            keys = {job.key for job in self.plan.jobs}
            reached = {} if self.options.force else self.checkpoints.epochs(keys)
            trials = self._states(self.plan.jobs, reached)
            jobs = [trial.job for trial in trials if trial.is_left and trial.job.key in wanted] + examples
            history, budgeted = functools.partial(store.timed_runs, self.uri), self.deadline.seconds is not None
            expected = forecast(self.plan, jobs, _machine(self.resources), history, reached=reached, budgeted=budgeted)
        return SweepSurvey(self.plan, trials, wanted, searched, expected)

    def run(self) -> None:
        """Run every trial that has not finished before, and wait for those that other drivers run.

        `failures` then has the trials without a result, and `complete` says whether all trials have ended. Raises
        KeyboardInterrupt if the user stops the sweep; what has finished is kept, and another call goes on.
        """
        from runner.tracking.tracker import make_experiment

        self.observer.doing("Looking for finished trials")
        surveyed = self.survey()
        self.observer.say(str(surveyed))
        self.reused = len(surveyed.of_state("reused"))
        self._give_up(surveyed.of_state("diverged"))
        self.estimate = ProgressEstimate(surveyed.forecast.timings, surveyed.forecast.machine.slots)

        def learn(timed: Forecast) -> None:
            self.estimate.learn(timed.timings)
            self.observer.say(str(timed))

        calibration = surveyed.forecast.start_calibration(self.options.data_root, learn)
        try:
            make_experiment(self.uri)
            with claims_of(store.identity(self.uri)) as self.claims:
                # Of trials that finished just before their driver was killed.
                self._discard({trial.job.key for trial in surveyed.of_state("reused", "diverged")})
                self.complete = self._run_unclaimed(surveyed)
        finally:
            if calibration:
                calibration.stop()

    def report(self) -> "list[Report]":
        """Write the reports of the sweep, and log them to its run; none where no trial has finished."""
        from reports import build
        from reports.render import files as table_files
        from runner.tracking.tracker import log_report, log_summary

        self.observer.doing("Writing tables and figures")
        records = store.trial_records(self.uri, {job.key for job in self.plan.jobs})
        if not any(record.status == "FINISHED" for record in records.values()):
            return []
        slugs = {use.slug for use in self.plan.datasets}
        reports = build.build(self.uri, self.plan.sweep.name, self.options.results, slugs, importances)
        for report in reports:
            files = {path.relative_to(report.folder).as_posix(): path for path in report.files}
            table = table_files.to_markdown(report.table).partition("<details>")[0].strip()
            log_report(self.uri, report.parent, report.dataset or f"tables/{report.sweep}", files, table)
        log_summary(self.uri, reports[0].parent, self.plan.shared(), *summary(self.plan, records, reports))
        if self.complete and not self.failures:
            remember(self.options, self.plan, reports)
        return reports

    def _states(self, jobs: Sequence[Job], reached: Mapping[str, int]) -> list[Surveyed]:
        """The state of each job in the store."""
        records = store.trial_records(self.uri, {job.key for job in jobs})
        force, retry_failed = self.options.force, self.options.retry_failed
        return survey(jobs, records, reached, force=force, retry_failed=retry_failed, stopper=self.plan.stopper)

    def _look_at_search(self) -> tuple[list[Searched], set[str], list[Job]]:
        """How far a search is, the keys of the jobs that should have finished in the end, and jobs that stand for
        suggestions to come. The plan gets the jobs of earlier suggestions."""
        plan, wanted = self.plan, {job.key for job in self.plan.jobs}
        if plan.sweep.search is None:
            return [], wanted, []
        searched: list[Searched] = []
        examples: list[Job] = []
        from runner.search import studies

        for study in studies.find(plan, studies.beside(store.identity(self.uri))):
            if self.options.force:
                study.study = None
            searched.append(study.survey())
            for suggestion in study.suggestions():
                plan.add(suggestion.jobs)
                wanted |= {job.key for job in suggestion.jobs} if suggestion.is_wanted else set()
            examples += study.examples(plan.sweep.search.trials - searched[-1].asked)
        return searched, wanted, examples

    def _give_up(self, trials: Iterable[Surveyed]) -> None:
        """Count trials as failed that have diverged before, and would again."""
        self.failures += [Failure(trial.job, trial.detail, "diverged") for trial in trials if trial.state == "diverged"]

    def _discard(self, keys: Collection[str]) -> None:
        # A file that stays does no harm: a finished trial is not run again.
        with suppress(InputError, UserError):
            self.checkpoints.discard(set(keys))

    def _claim(self, key: str) -> bool:
        """Whether no other driver has a trial; one that is to run anew then has no checkpoints any more."""
        is_mine = self.claims.take(key)
        if is_mine and self.options.force:
            self.checkpoints.discard({key})
        return is_mine

    def _run_unclaimed(self, surveyed: SweepSurvey) -> bool:
        """Run what no other driver is at work on, and wait for what one is; returns whether all trials have ended."""
        todo, first = surveyed.todo, True
        while True:
            if surveyed.searched:
                self._begin_search(anew=self.options.force and first)
            mine = [job for job in todo if self._claim(job.key)]
            others = [job for job in todo if job.key not in self.claims.held]
            # Another driver may have finished some since they were looked up.
            with self.claims.alone():
                states = self._states(mine, {})
            self._give_up(states)
            mine = [trial.job for trial in states if trial.is_left]
            through = True
            if mine or first or (self.search and self.search.to_come):
                through = self._run_claimed(mine)
            others += self.search.elsewhere if self.search else []
            if not others or not through:
                return through
            self._wait(f"{len(others)} trials are being run by another sweep", {job.key for job in others})
            todo, first = [job for job in others if job in todo], False

    def _wait(self, what: str, keys: Collection[str]) -> None:
        """Wait for another driver. All claims are released before: two drivers that each hold some would wait for each
        other for ever."""
        self.claims.release()
        self.observer.say(f"{what}; waiting for it.")
        with self._stoppable(f"Not waited for; {AGAIN}."):
            self.claims.wait(keys)

    def _begin_search(self, anew: bool) -> None:
        """Make the sweep's search; waits until no other driver is at work on one of its studies."""
        from runner.search import studies
        from runner.search.search import Search

        assert self.plan.sweep.search is not None
        address = studies.beside(store.identity(self.uri))
        keys = sorted(study.key for study in studies.find(self.plan, address))
        while not all(map(self.claims.take, keys)):
            self._wait("Another driver is at work on this search", keys)
        recall = functools.partial(store.trial_records, self.uri, metrics=list(self.plan.sweep.search.objectives))
        with self.claims.alone():
            self.search = Search(self.plan, address, recall, anew=anew, claim=self._claim, say=self.observer.note)
        # Trials whose results the studies have, or will have with those of other seeds.
        self._discard({key for key, end in self.search.ended.items() if isinstance(end, list)})

    def _run_claimed(self, jobs: list[Job]) -> bool:
        """Run jobs, and those that a search suggests; returns False where the sweep is to end here: because a failure
        was repeated too often, or its time is up."""
        from runner.tracking.tracker import Tracker

        search, asked = self.search, self.options
        tally = Tally(jobs, self.reused, self.estimate, lambda: search.to_come if search else 0)
        with self.claims.alone():
            tracker = Tracker(
                self.uri,
                self.plan,
                claim=self.claims.take,
                anew=asked.force,
                about=search.tags if search else {},
                forget=lambda key: self._discard({key}),
                say=self.observer.note,
            )
        if search:
            search.announce = tracker.extended
        self._look_at_earlier_epochs()
        options = ExecutionOptions(
            resources=self.resources,
            data_root=str(cplearn.data.data_root(asked.data_root)),
            compile=asked.compile,
            checkpoints=self.checkpoints.place,
            checkpoint_every=asked.checkpoint_every,
            retries=asked.retries,
            stop_after=asked.stop_after,
            modules=tuple(self.plan.modules),
        )
        repeated: str | None = None
        try:
            with self.deadline, self.observer.running(tally) as listeners:
                if tally.total:
                    self.observer.doing("Starting Ray")
                followers: list[Listener] = [tracker, tally, *([search] if search else []), *listeners]
                if jobs or search:
                    from runner.execution.execute import execute

                    repeated = execute(jobs, followers, options, self)
        except KeyboardInterrupt:
            self._remark(tracker)
            if not self.deadline.passed:
                self.observer.say(
                    f"Stopped. {len(tally.done)} of {tally.total} trials have finished and are kept; "
                    "run the same command again to do the rest."
                )
            try:
                tracker.close("KILLED", AT_STOP_SECONDS)
            except (InputError, UserError) as error:
                self.observer.note(str(error))
            if not self.deadline.passed:
                raise
        except BaseException:
            with suppress(InputError, UserError):
                tracker.close("FAILED", AT_STOP_SECONDS)
            raise
        else:
            self._remark(tracker)
            away = "The store is not waited for; run the same command again to make up for what it lacks."
            with self._stoppable(away):
                tracker.close("FAILED" if tally.failures or repeated else "FINISHED")
        self.failures += tally.failures
        if repeated:
            self.observer.say(
                f"stopped: the same failure came again and again, so {tally.left} trials were not run or not ended."
            )
        elif tally.left:
            self.observer.say(
                f"Budget used up: {len(tally.done)} of {tally.total} trials done; run the same command again to go on."
            )
        return not repeated and not tally.left

    def _remark(self, tracker: "Tracker") -> None:
        """What the search has found goes into the sweep's note, and the same words to the observer."""
        if self.search and (summary := self.search.summary()):
            tracker.remark = summary
            self.observer.say("\n" + summary.replace("**", ""))

    @contextmanager
    def _stoppable(self, text: str) -> Iterator[None]:
        """Say a sentence where the user stops what is inside."""
        try:
            yield
        except KeyboardInterrupt:
            self.observer.say(text)
            raise

    def _look_at_earlier_epochs(self) -> None:
        """Tell the scheduler, where it compares trials, what earlier calls have seen of them."""
        settings = self.plan.sweep.scheduler
        if isinstance(settings, AshaSettings):
            from runner.execution.tune_callbacks import Asha

            self.asha = Asha(settings)
            keys = set() if self.options.force else {job.key for job in self.plan.jobs}
            histories = store.metric_histories(self.uri, settings.metric, keys)
            for job in self.plan.jobs:
                self.asha.remember(job, histories.get(job.key, {}))

    def admits(self, job: Job) -> bool:
        return self.deadline.seconds is None or self.deadline.allows(self.estimate.ends_in(job))

    def next_job(self) -> Job | None:
        return self.search.more() if self.search else None

    def keep_alive(self) -> None:
        self.claims.keep()


def _resources(sweep: Sweep, options: SweepOptions) -> Resources:
    """What a trial is given: what the options say, else the sweep file, else the defaults."""
    asked = sweep.resources
    # A number of GPUs in the options is also a number of processes.
    ranks = options.ranks or (asked.ranks if options.gpus is None else None) or 1
    cpus = next(number for number in (options.cpus, asked.cpus, 1) if number is not None)
    return Resources(cpus, asked.gpus if options.gpus is None else options.gpus, ranks)


def _machine(resources: Resources) -> Machine:
    """Where trials with these resources run: this machine, or the cluster of RAY_ADDRESS."""
    if os.environ.get("RAY_ADDRESS"):
        from runner.execution.execute import cluster

        settled, slots = cluster(resources)
        return Machine(settled, slots, machine.hardware(settled, remote=True))
    settled, slots = machine.local(resources)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(settled, slots, machine.hardware(settled, remote=False), memory)
