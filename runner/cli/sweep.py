"""`cplearn sweep`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from runner.cli.console import (
    FAILED,
    INTERRUPTED,
    check_places,
    counted,
    err,
    out,
    plain_errors,
    sigterm_as_interrupt,
    stoppable,
)
from runner.cli.options import (
    Budget,
    CheckpointPlace,
    Compile,
    Cpus,
    DataRoot,
    DatasetName,
    Epochs,
    Force,
    Gpus,
    Ranks,
    Results,
    RetryFailed,
    Scale,
    Seeds,
    Setting,
    SweepName,
    Uri,
)
from runner.cli.plan import look_at_search, machine_of, plan_sweep
from runner.cli.results import write_reports

if TYPE_CHECKING:
    from runner.durability.checkpoints import Checkpoints
    from runner.durability.claims import Claims
    from runner.events import Listener
    from runner.execution.contract import Steering
    from runner.execution.scheduler import Asha
    from runner.faults import FailureKind
    from runner.planning.budget import Deadline
    from runner.planning.plan import Job, Plan
    from runner.planning.survey import Searched
    from runner.progress import Progress
    from runner.search.search import Search
    from runner.timing import Forecast, ProgressEstimate
    from runner.tracking.tracker import Tracker

    Failed = tuple[Job, str, FailureKind]
    Missing = Callable[[list[Job]], tuple[list[Job], list[Failed], set[str]]]

AT_STOP_SECONDS = 10
"""How long a stopped sweep waits for the tracking store."""
MOST_LISTED = 10


def sweep(
    file: SweepName,
    dataset: DatasetName = None,
    seeds: Seeds = None,
    epochs: Epochs = None,
    settings: Setting = [],  # noqa: B006 (typer wants a literal default)
    scale: Scale = "full",
    cpus: Cpus = None,
    gpus: Gpus = None,
    ranks: Ranks = None,
    compile: Compile = False,
    force: Force = False,
    retry_failed: RetryFailed = False,
    retries: Annotated[int, typer.Option(help="Attempts after a lost worker or lack of memory.")] = 3,
    stop_after: Annotated[int, typer.Option(help="Stop at so many failures that are the same; 0: never.")] = 3,
    checkpoints: CheckpointPlace = "checkpoints",
    checkpoint_every: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Least time between a trial's checkpoints.")
    ] = 60,
    budget: Budget = None,
    results: Results = Path("results"),
    data_root: DataRoot = None,
    tracking_uri: Uri = None,
) -> None:
    """Run a sweep: every trial that has not finished before, then the tables."""
    with plain_errors():
        import cplearn.data
        from cplearn.errors import InputError
        from reports import store
        from runner.durability.checkpoints import Checkpoints
        from runner.faults import Policy
        from runner.planning.budget import Deadline
        from runner.planning.plan import split
        from runner.timing import ProgressEstimate, forecast

        policy, deadline = Policy(retries, stop_after), Deadline(budget)
        plan, resources = plan_sweep(file, dataset, seeds, epochs, settings, scale, data_root, (cpus, gpus, ranks))
        if retry_failed and plan.sweep.search:
            raise InputError("--retry-failed: a study keeps what has diverged as failed; --force begins a new study")
        uri = store.resolve(tracking_uri)
        check_places(results, uri, checkpoints)
        kept = Checkpoints(checkpoints)
        missing = functools.partial(_missing, uri=uri, force=force, retry_failed=retry_failed, stopper=plan.stopper)
        look_ahead = functools.partial(
            forecast,
            machine=machine_of(resources),
            history=functools.partial(store.timed_runs, uri),
            budgeted=deadline.given,
        )
        work = _survey(plan, uri, kept, force, missing, look_ahead)
        _announce(plan, work)
        pace = ProgressEstimate(work.expected.timings, work.expected.machine.slots)
        calibration = work.expected.start_calibration(data_root, functools.partial(_calibrated, pace))

        from runner.execution.contract import ExecutionOptions
        from runner.execution.execute import execute

        root = str(cplearn.data.data_root(data_root))
        options = ExecutionOptions(resources, root, compile, kept.place, checkpoint_every, policy)
        start = functools.partial(execute, options=options)
        run = functools.partial(_run, kept=kept, force=force, pace=pace, deadline=deadline)
        try:
            failed = _run_unclaimed(plan, work, uri, kept, force, missing, run, start)
        finally:
            if calibration:
                calibration.stop()
        _explain(plan, failed)
        if split(plan.jobs, lambda keys: store.finished_runs(uri, keys), force=False)[1]:
            write_reports(uri, plan.sweep.name, results, {use.slug for use in plan.datasets}, keep=True)
    if failed:
        raise typer.Exit(FAILED)


@dataclass(frozen=True)
class _Work:
    """What a call finds to do: the jobs to run (in the order of a budget, if there is one), how far searches are and
    jobs that stand for what they will suggest, what is to be expected of both; of the others those that diverged, and
    the keys of those that were stopped early and of all that have ended in another way."""

    todo: list[Job]
    searched: list[Searched]
    examples: list[Job]
    expected: Forecast
    diverged: list[Failed]
    early: set[str]
    ended: set[str]

    @property
    def before(self) -> int:
        """How many have finished before."""
        return len(self.ended) - len(self.diverged)


def _survey(
    plan: Plan, uri: str, kept: Checkpoints, force: bool, missing: Missing, look_ahead: Callable[..., Forecast]
) -> _Work:
    """Look at the store; `look_ahead` forecasts jobs of the plan that have reached some epochs."""
    from runner.durability.claims import looking_at

    with looking_at(uri):
        searched, wanted, examples = look_at_search(plan, uri, force)
        todo, diverged, early = missing([job for job in plan.jobs if job.key in wanted])
        reached = {} if force else kept.epochs({job.key for job in todo})
        expected = look_ahead(plan, todo + examples, reached=reached)
    ended = wanted - {job.key for job in todo} - early
    # A search brings its jobs by itself.
    in_order = [job for job in expected.jobs if not searched or job.role == "baseline"]
    return _Work(in_order, searched, examples, expected, diverged, early, ended)


def _announce(plan: Plan, work: _Work) -> None:
    again = f", {work.before} finished before" if work.before else ""
    again += f", {len(work.diverged)} diverged before" if work.diverged else ""
    again += f", {len(work.early)} stopped early before" if work.early else ""
    data = ", ".join(f"{use.slug} ({use.train_images:,} + {use.test_images:,} images)" for use in plan.datasets)
    out.print(
        f"Sweep [bold]{plan.sweep.name}[/] on {escape(data)}: {counted(len(work.todo), 'trial')} to run{again}.",
        highlight=False,
    )
    for one in work.searched:
        out.print(escape(str(one)), highlight=False, soft_wrap=True)
    if work.expected.jobs and (work.expected.machine.is_cluster or not work.expected.unknown):
        out.print(escape(str(work.expected)), highlight=False, soft_wrap=True)


def _calibrated(pace: ProgressEstimate, expected: Forecast) -> None:
    """Say what is to be expected, once a few steps have been timed."""
    pace.learn(expected.timings)
    out.print(escape(str(expected)), highlight=False, soft_wrap=True)


def _run_unclaimed(
    plan: Plan,
    work: _Work,
    uri: str,
    kept: Checkpoints,
    force: bool,
    missing: Missing,
    run: Callable[..., tuple[Progress, bool]],
    start: Callable[..., str | None],
) -> list[Failed]:
    """Run what no other driver is at work on, and wait for what one is, until nothing is left; returns the failures.

    `run` and `start` are `_run` and `execute` for this call.
    """
    from cplearn.errors import InputError
    from runner.durability.claims import claims_of

    todo, failed = work.todo, list(work.diverged)
    stopped, begun = False, False
    waited_for: list[Job] = []
    with claims_of(uri) as claims:
        with suppress(InputError):
            # Of a trial that finished just before its driver was killed.
            kept.discard(work.ended)
        while not begun or (waited_for and not stopped):
            search = _search(plan, uri, claims, kept, force, anew=force and not begun) if work.searched else None
            mine = [job for job in todo if claims.take(job.key)]
            todo = [job for job in todo if job.key not in claims.held]
            # Another driver may have finished some since they were looked up.
            with claims.alone():
                mine, given_up, _ = missing(mine)
            failed += given_up
            if mine or not begun or (search and search.to_come):
                if force:
                    kept.discard({job.key for job in mine})
                progress, stopped = run(plan, mine, work.before, uri, start, claims=claims, search=search)
                failed += progress.failures
            # Not kept while waiting: two drivers that wait for each other would do so for ever.
            claims.release()
            begun = True
            waited_for = todo + (search.elsewhere if search else [])
            if waited_for and not stopped:
                _wait(claims, waited_for)
    return failed


def _missing(
    jobs: list[Job], uri: str, force: bool, retry_failed: bool, stopper: str
) -> tuple[list[Job], list[Failed], set[str]]:
    """The jobs still to be run, those that have diverged before and would do so again, and the keys of those that the
    sweep's own scheduler, `stopper`, has stopped."""
    from reports import store
    from runner.planning.plan import split

    todo, _ = split(jobs, lambda keys: store.finished_runs(uri, keys), force)
    diverged = {} if force or retry_failed or not todo else store.diverged_runs(uri, {job.key for job in todo})
    given_up: list[Failed] = [(job, diverged[job.key], "diverged") for job in todo if job.key in diverged]
    known = store.known_runs(uri, {job.key for job in todo}) if stopper and todo and not force else {}
    early = {key for key, run in known.items() if run.status == "KILLED" and run.stopped_by == stopper}
    return [job for job in todo if job.key not in diverged.keys() | early], given_up, early


def _search(plan: Plan, uri: str, claims: Claims, kept: Checkpoints, force: bool, anew: bool) -> Search:
    """The sweep's search; waits until no other driver is at work on one of its studies."""
    from cplearn.errors import InputError
    from reports import store
    from runner.search import search

    place = search.beside(uri)
    keys = sorted(one.key for one in search.find(plan, place))
    while not all(claims.take(key) for key in keys):
        # Not some of them while waiting for others.
        claims.release()
        out.print("Another driver is at work on this search; waiting for it.", highlight=False)
        with stoppable("Not waited for; run the same command again to do what is missing."):
            claims.wait(keys)
    with claims.alone():
        found = search.Search(
            plan,
            place,
            lambda keys: store.recorded(uri, keys),
            anew=anew,
            say=lambda text: out.print(f"[yellow]note[/]   {escape(text)}", highlight=False, soft_wrap=True),
        )
    with suppress(InputError):
        kept.discard(found.finished_keys)

    def claim(key: str) -> bool:
        if not claims.take(key):
            return False
        if force:
            kept.discard({key})
        return True

    found.claim = claim
    return found


def _asha(plan: Plan, uri: str, force: bool) -> Asha | None:
    """The sweep's scheduler, if it has one, with what earlier calls have seen."""
    if plan.sweep.scheduler is None:
        return None
    from reports import store
    from runner.execution.scheduler import Asha

    asha = Asha(plan.sweep.scheduler)
    keys = set() if force else {job.key for job in plan.jobs}
    histories = store.metric_histories(uri, asha.settings.metric, keys)
    for job in plan.jobs:
        asha.remember(job, histories.get(job.key, {}))
    return asha


def _steering(
    claims: Claims, pace: ProgressEstimate, deadline: Deadline, search: Search | None, asha: Asha | None
) -> Steering:
    """What is decided while trials run: claims are looked after, a budget and a search say what is to start."""
    from runner.execution.contract import Steering

    steering = Steering()
    steering.keep_alive = claims.keep  # type: ignore[method-assign]
    if deadline.given:
        steering.admits = lambda job: deadline.allows(pace.ends_in(job))  # type: ignore[method-assign]
    if search:
        steering.next_job = search.more  # type: ignore[method-assign]
    steering.asha = asha
    return steering


def _run(
    plan: Plan,
    jobs: list[Job],
    reused: int,
    uri: str,
    start: Callable[..., str | None],
    *,
    kept: Checkpoints,
    claims: Claims,
    force: bool,
    pace: ProgressEstimate,
    deadline: Deadline,
    search: Search | None = None,
) -> tuple[Progress, bool]:
    """Run jobs, and those that a search suggests, by `start(jobs, listeners)` under tracking and display.

    Returns what has become of them, and whether the sweep is to end here: because a failure was repeated too often, or
    because its time is up.
    """
    from cplearn.errors import InputError
    from runner.progress import Progress
    from runner.tracking.tracker import Tracker

    progress = Progress(jobs, reused, out, pace, (lambda: search.to_come) if search else lambda: 0)

    def forget(key: str) -> None:
        # A file that stays does no harm: a finished trial is not run again.
        with suppress(InputError):
            kept.discard({key})

    with claims.alone():
        about = search.tags if search else {}
        tracker = Tracker(uri, plan, claim=claims.take, anew=force, about=about, forget=forget, say=progress.say)
    listeners: list[Listener] = [tracker, progress]
    if search:
        search.say, search.announce = progress.say, tracker.extended
        listeners.append(search)
    repeated: str | None = None
    try:
        with sigterm_as_interrupt(), deadline, progress:
            steering = _steering(claims, pace, deadline, search, _asha(plan, uri, force))
            repeated = start(jobs, listeners, steering=steering)
    except KeyboardInterrupt:
        _remark(tracker, search)
        if not deadline.passed:
            out.print(
                f"\nStopped. {len(progress.done)} of {progress.total} trials have finished and are kept; "
                "run the same command again to do the rest.",
                highlight=False,
            )
        try:
            tracker.close("KILLED", AT_STOP_SECONDS)
        except InputError as error:
            err.print(escape(str(error)), highlight=False, soft_wrap=True)
        if not deadline.passed:
            raise typer.Exit(INTERRUPTED) from None
    except BaseException:
        with suppress(InputError):
            tracker.close("FAILED", AT_STOP_SECONDS)
        raise
    else:
        _remark(tracker, search)
        with stoppable("The store is not waited for; run the same command again to make up for what it lacks."):
            tracker.close("FAILED" if progress.failures or repeated else "FINISHED")
    left = progress.total - progress.ended
    if repeated:
        err.print(
            f"\n[red]stopped:[/] the same failure came again and again, so {left} trials were not run or not ended.",
            highlight=False,
        )
    elif left:
        out.print(
            f"\nBudget used up: {len(progress.done)} of {progress.total} trials done; "
            "run the same command again to go on.",
            highlight=False,
        )
    return progress, repeated is not None or left > 0


def _remark(tracker: Tracker, search: Search | None) -> None:
    """What the search has found goes into the sweep's note, and the same words to the terminal."""
    if search and (found := search.summary()):
        tracker.remark = found
        out.print("\n" + escape(found.replace("**", "")), highlight=False, soft_wrap=True)


def _wait(claims: Claims, jobs: list[Job]) -> None:
    out.print(f"{len(jobs)} trials are being run by another sweep; waiting for it.", highlight=False)
    with stoppable("Not waited for; run the same command again to do what is missing."):
        claims.wait({job.key for job in jobs})


def _explain(plan: Plan, failed: list[Failed]) -> None:
    """Each distinct failure with its last lines and the command that repeats it."""
    from runner.faults import normalise
    from runner.planning.plan import command

    alike: dict[str, list[Failed]] = {}
    for one in failed:
        alike.setdefault(normalise(one[1]), []).append(one)
    for (job, reason, _), *others in alike.values():
        more = f" and {len(others)} more" if others else ""
        err.print(f"\n[red]failed:[/] {escape(job.dataset)} {escape(job.name)} (key {job.key}){more}", highlight=False)
        err.print(escape("\n".join(reason.splitlines()[-8:])), highlight=False, soft_wrap=True)
        err.print(f"alone: {escape(command(job.trial))}", highlight=False, soft_wrap=True)
        for other, _, _ in others[:MOST_LISTED]:
            err.print(f"  also {escape(other.dataset)} {escape(other.name)} (key {other.key})", highlight=False)
        if len(others) > MOST_LISTED:
            err.print(f"  and {len(others) - MOST_LISTED} more", highlight=False)
    if failed:
        hint = "; --retry-failed runs diverged ones again" if any(kind == "diverged" for *_, kind in failed) else ""
        err.print(f"\n{len(failed)} of {len(plan.jobs)} trials failed; the others are kept{hint}.", highlight=False)
