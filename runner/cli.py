"""The command line: the one place that knows sweeps, trainer, tracker and reports, and ties them together."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from runner.checkpoints import Checkpoints
    from runner.claims import Claims
    from runner.faults import Kind
    from runner.plan import Job, Plan
    from runner.progress import Progress
    from sweeps.spec import Sweep

    Failed = tuple[Job, str, Kind]

# Imports of torch, ray and mlflow take seconds; each command pays only for what it needs.

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Sweeps of CPLearn and other self-supervised methods: Ray Tune runs them, MLflow keeps them, tables come out.",
)
out, err = Console(), Console(stderr=True)

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
AT_STOP_SECONDS = 10
"""How long a stopped sweep waits for the tracking store."""
MOST_LISTED = 10

Setting = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, epochs=50 say; a list [0.1,1] makes an axis."),
]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", "-d", metavar="NAME", help="digits, svhn, cifar10, cifar100 or folder:PATH.")
]
Epochs = Annotated[int | None, typer.Option("--epochs", "-e", min=0, help="Short for --set epochs=N.")]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Where tables and figures go.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", envvar="CPLEARN_DATA", metavar="DIR", help="Data sets and caches; ./data.")
]
Uri = Annotated[
    str | None,
    typer.Option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", metavar="URI", help="MLflow store; ./mlflow.db."),
]


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep file, sweeps/beta.yaml for instance.")],
    dataset: DatasetName = None,
    seeds: Annotated[int | None, typer.Option("--seeds", "-s", min=1, help="How many seeds, counted from 0.")] = None,
    epochs: Epochs = None,
    settings: Setting = [],  # noqa: B006 (typer wants a literal default)
    cpus: Annotated[float, typer.Option("--cpus-per-trial", help="CPUs, and so threads, of a trial.")] = 1,
    gpus: Annotated[
        float | None, typer.Option("--gpus-per-trial", help="GPUs of a trial, 0.25 for instance; default: 1 if any.")
    ] = None,
    packing: Annotated[
        str | None, typer.Option(metavar="auto|off|N", help="Train trials that differ in numbers as one model.")
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Run backbones through torch.compile.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run every trial anew, finished or not.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run trials again that have diverged.")] = False,
    retries: Annotated[int, typer.Option(help="Attempts after a lost worker or lack of memory.")] = 3,
    stop_after: Annotated[int, typer.Option(help="Stop at so many failures that are the same; 0: never.")] = 3,
    checkpoints: Annotated[
        str,
        typer.Option(envvar="CPLEARN_CHECKPOINTS", metavar="DIR|URI", help="Where interrupted trials are kept."),
    ] = "checkpoints",
    checkpoint_every: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Least time between a trial's checkpoints.")
    ] = 60,
    results: Results = Path("results"),
    data_root: DataRoot = None,
    tracking_uri: Uri = None,
) -> None:
    """Run a sweep: every trial that has not finished before, then the tables."""
    with _plain_errors():
        import cplearn.data
        from reports import store
        from runner.checkpoints import Checkpoints
        from runner.claims import Claims, beside
        from runner.faults import Policy

        policy = Policy(retries, stop_after)
        plan = _plan(file, dataset, seeds, epochs, settings, data_root)
        uri = store.resolve(tracking_uri)
        _writable(results)
        kept = Checkpoints(checkpoints)
        missing = functools.partial(_missing, uri=uri, force=force, retry_failed=retry_failed)
        todo, failed = missing(plan.jobs)
        before = len(plan.jobs) - len(todo) - len(failed)
        again = f", {before} finished before" if before else ""
        again += f", {len(failed)} diverged before" if failed else ""
        data = ", ".join(f"{use.slug} ({use.train_images:,} + {use.test_images:,} images)" for use in plan.datasets)
        out.print(
            f"Sweep [bold]{plan.sweep.name}[/] on {escape(data)}: {len(todo)} trials to run{again}.", highlight=False
        )

        from runner.execute import Resources, execute
        from runner.packing import parse

        start = functools.partial(
            execute,
            resources=Resources(cpus, gpus),
            packing=parse(packing or plan.sweep.packing),
            data_root=str(cplearn.data.data_root(data_root)),
            compile=compile,
            checkpoints=kept.place,
            checkpoint_every=checkpoint_every,
            policy=policy,
        )
        stopped, begun = False, False
        with Claims(beside(uri)) as claims:
            while not begun or (todo and not stopped):
                mine = [job for job in todo if claims.take(job.key)]
                todo = [job for job in todo if job.key not in claims.held]
                # Another driver may have finished some since they were looked up.
                mine, given_up = missing(mine)
                failed += given_up
                if mine or not begun:
                    if force:
                        kept.discard({job.key for job in mine})
                    progress, stopped = _run(plan, mine, before, uri, start, kept, claims, force)
                    failed += progress.failures
                # Not kept while waiting: two drivers that wait for each other would do so for ever.
                claims.release()
                begun = True
                if todo and not stopped:
                    _wait(claims, todo)
        _explain(plan, failed)
        if len(failed) < len(plan.jobs):
            _report(uri, plan.sweep.name, results, {use.slug for use in plan.datasets})
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def train(
    dataset: DatasetName = None,
    epochs: Epochs = None,
    settings: Setting = [],  # noqa: B006
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:1; default: cuda if there is one.")] = "",
    save: Annotated[Path | None, typer.Option("--save", metavar="DIR", help="Write the model there.")] = None,
    data_root: DataRoot = None,
) -> None:
    """Train one trial in this process, without Ray and without tracking; print its metrics."""
    with _plain_errors():
        import torch

        import cplearn.data
        from cplearn import config, training
        from sweeps.spec import nested

        trial = config.Trial.read(nested(_overrides(dataset, epochs, settings)))
        data = cplearn.data.load(trial.dataset, data_root, trial.image_size)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")

        def log(member: int, epoch: int, metrics: dict[str, float]) -> None:
            terms = "  ".join(f"{name.removeprefix('train/')} {value:.4g}" for name, value in metrics.items())
            out.print(f"epoch {epoch}/{trial.epochs}  {terms}", highlight=False, soft_wrap=True)

        outcome = training.train([trial], data, device=device, log=log, save_to=[save] if save else None)[0]
        for name, value in outcome.metrics.items():
            out.print(f"{name:32} {value:.4f}", highlight=False)
        if outcome.failure:
            err.print(f"[red]failed:[/] {escape(outcome.failure)}", highlight=False)
            raise typer.Exit(FAILED)


@app.command()
def report(
    name: Annotated[str | None, typer.Argument(help="A sweep's name; default: every sweep of the store.")] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", metavar="NAME", help="Only this data set.")] = None,
    results: Results = Path("results"),
    tracking_uri: Uri = None,
) -> None:
    """Write tables and figures from the runs in the tracking store, without running anything."""
    with _plain_errors():
        from cplearn.data.catalogue import slug
        from reports import store
        from reports.errors import ReportError

        uri = store.resolve(tracking_uri)
        only = {slug(dataset)} if dataset else None
        names = [name] if name else store.list_sweeps(uri, only)
        if not names:
            raise ReportError(f"no sweep in the store was run on {dataset}")
        for one in names:
            _report(uri, one, results, only)


@app.command()
def ui(
    port: Annotated[int, typer.Option("--port", "-p", help="Port on 127.0.0.1.")] = 5000,
    tracking_uri: Uri = None,
) -> None:
    """Open MLflow's user interface on 127.0.0.1, where runs can be compared."""
    with _plain_errors():
        from reports import store

        uri = store.resolve(tracking_uri)
        out.print(f"MLflow on http://127.0.0.1:{port} (Ctrl-C ends it)", highlight=False)
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
        # Without job execution MLflow starts in half the time; only its tools for language models need it.
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        try:
            code = subprocess.run([*command, "--port", str(port)], env=environment, check=False).returncode
        except KeyboardInterrupt:
            code = 0
        raise typer.Exit(code)


@app.command()
def data(
    name: Annotated[str | None, typer.Argument(help="A data set to fetch and check; default: list them.")] = None,
    data_root: DataRoot = None,
) -> None:
    """List the data sets, or fetch one, decode it, and print its sizes and fingerprint."""
    with _plain_errors():
        import cplearn.data
        from cplearn.data.catalogue import CATALOGUE

        if name is None:
            table = Table("name", "what it is", box=None, pad_edge=False)
            for key, entry in CATALOGUE.items():
                table.add_row("folder:PATH" if key == "folder" else key, entry.summary)
            out.print(table)
            return
        loaded = cplearn.data.load(name, data_root)
        out.print(
            f"{loaded.name}: {len(loaded.train.images):,} training and {len(loaded.test.images):,} test images of "
            f"{loaded.channels}x{loaded.image_size}x{loaded.image_size}, {loaded.n_classes} classes, mean "
            f"{loaded.mean:.4f}, std {loaded.std:.4f}\nfrom {loaded.source}\nfingerprint {loaded.fingerprint}",
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def settings(
    method: Annotated[str, typer.Argument(help="A method; cplearn settings untrained lists another's.")] = "cplearn",
    dataset: DatasetName = None,
) -> None:
    """List every setting of a trial with its default on a data set and its sentence."""
    with _plain_errors():
        from cplearn import config

        defaults = config.Trial.read({"method": method} | ({"dataset": dataset} if dataset else {})).flat()
        table = Table("setting", "default", "what it does", box=None, pad_edge=False)
        for key, sentence in config.known_keys(method).items():
            default = defaults[key]
            table.add_row(key, "" if default is None else f"{default}", escape(sentence))
        out.print(table)


@app.command()
def bench(
    parts: Annotated[list[str] | None, typer.Argument(help="Only these parts, step say; default: all.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Try the machinery; the numbers then mean nothing.")] = False,
    results: Results = Path("results"),
) -> None:
    """Measure this program's speed on this machine as ratios within one run; write bench.md and bench.json."""
    with _plain_errors():
        from runner import bench as benchmark

        path = benchmark.run(results / "bench", parts, quick, out)
        out.print(f"Written to [bold]{escape(str(path))}[/]", highlight=False, soft_wrap=True)


def _overrides(dataset: str | None, epochs: int | None, settings: list[str]) -> dict[str, Any]:
    """Dotted settings to values, as given on the command line."""
    from sweeps.spec import parse_override

    overrides = dict(parse_override(text) for text in settings)
    overrides |= {"dataset": dataset} if dataset else {}
    return overrides | ({"epochs": epochs} if epochs is not None else {})


def _plan(
    file: Path, dataset: str | None, seeds: int | None, epochs: int | None, settings: list[str], data_root: Path | None
) -> Plan:
    from runner.plan import SCHEMA, make_plan
    from sweeps.spec import read_sweep

    described: Sweep = read_sweep(file, SCHEMA, _overrides(dataset, epochs, settings), seeds)
    return make_plan(described, data_root)


def _missing(jobs: list[Job], uri: str, force: bool, retry_failed: bool) -> tuple[list[Job], list[Failed]]:
    """The jobs still to be run, and those that have diverged before and would do so again."""
    from reports import store
    from runner.plan import split

    todo, _ = split(jobs, lambda keys: store.finished_runs(uri, keys), force)
    diverged = {} if force or retry_failed or not todo else store.diverged_runs(uri, {job.key for job in todo})
    given_up: list[Failed] = [(job, diverged[job.key], "diverged") for job in todo if job.key in diverged]
    return [job for job in todo if job.key not in diverged], given_up


def _run(
    plan: Plan,
    jobs: list[Job],
    reused: int,
    uri: str,
    start: Callable[..., str | None],
    kept: Checkpoints,
    claims: Claims,
    force: bool,
) -> tuple[Progress, bool]:
    """Run jobs by `start(jobs, listeners)` under tracking and display.

    Returns what has become of them, and whether the sweep was stopped because a failure was repeated too often.
    """
    from cplearn.errors import InputError
    from runner.progress import Progress
    from runner.tracking import Tracker

    progress = Progress(jobs, reused, out)

    def forget(key: str) -> None:
        # A file that stays does no harm: a finished trial is not run again.
        with suppress(InputError):
            kept.discard({key})

    with claims.alone():
        tracker = Tracker(uri, plan, claim=claims.take, anew=force, forget=forget, say=progress.say)
    try:
        with _sigterm_as_interrupt(), progress:
            repeated = start(jobs, [tracker, progress])
    except KeyboardInterrupt:
        out.print(
            f"\nStopped. {len(progress.done)} of {progress.total} trials have finished and are kept; "
            "run the same command again to do the rest.",
            highlight=False,
        )
        try:
            tracker.close("KILLED", AT_STOP_SECONDS)
        except InputError as error:
            err.print(escape(str(error)), highlight=False, soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    except BaseException:
        with suppress(InputError):
            tracker.close("FAILED", AT_STOP_SECONDS)
        raise
    with _stoppable("The store is not waited for; run the same command again to make up for what it lacks."):
        tracker.close("FAILED" if progress.failures or repeated else "FINISHED")
    if repeated:
        left = progress.total - len(progress.done) - len(progress.failures)
        err.print(
            f"\n[red]stopped:[/] the same failure came again and again, so {left} trials were not run or not ended.",
            highlight=False,
        )
    return progress, repeated is not None


def _wait(claims: Claims, jobs: list[Job]) -> None:
    out.print(f"{len(jobs)} trials are being run by another sweep; waiting for it.", highlight=False)
    with _stoppable("Not waited for; run the same command again to do what is missing."):
        claims.wait({job.key for job in jobs})


def _explain(plan: Plan, failed: list[Failed]) -> None:
    """Each distinct failure with its last lines and the command that repeats it."""
    from runner.faults import normalise
    from runner.plan import command

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


def _report(uri: str, name: str, results: Path, datasets: Collection[str] | None) -> None:
    """Write a sweep's reports and print its tables."""
    from reports import build, terminal

    for one in build.build(uri, name, results, datasets):
        out.print(terminal.render(one, out.width))
        out.print(f"Written to [bold]{escape(str(one.folder))}[/]\n", highlight=False, soft_wrap=True)


def _writable(folder: Path) -> None:
    from cplearn.errors import InputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".write-test").touch()
        (folder / ".write-test").unlink()
    except OSError as error:
        raise InputError(f"--results {folder}: cannot write there ({error.strerror})") from None


@contextmanager
def _stoppable(text: str) -> Iterator[None]:
    """Ctrl-C ends the command with a sentence."""
    try:
        with _sigterm_as_interrupt():
            yield
    except KeyboardInterrupt:
        out.print(text, highlight=False)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let a preempted machine stop a sweep as cleanly as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """A user's mistake is one sentence and status 2, never a traceback."""
    from cplearn.errors import InputError
    from reports.errors import ReportError
    from sweeps.spec import SweepError

    try:
        yield
    except (InputError, SweepError, ReportError) as error:
        err.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(BAD_INPUT) from None


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
