"""The command line: the one place that knows sweeps, trainer, tracker and reports, and ties them together."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from runner.plan import Job, Plan
    from sweeps.spec import Sweep

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

Setting = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, epochs=50 say; a list [0.1,1] makes an axis."),
]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", "-d", metavar="NAME", help="A name `cplearn data` lists, or folder:PATH.")
]
Epochs = Annotated[int | None, typer.Option("--epochs", "-e", min=0, help="Short for --set epochs=N.")]
Scale = Annotated[
    str, typer.Option(metavar="smoke|small|full", help="A smaller version of the sweep, if the file has one.")
]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Where tables and figures go.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", envvar="CPLEARN_DATA", metavar="DIR", help="Data sets and caches; ./data.")
]
Device = Annotated[
    str, typer.Option("--device", metavar="NAME", help="cpu, cuda or cuda:1; default: cuda if there is one.")
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
    scale: Scale = "full",
    cpus: Annotated[float, typer.Option("--cpus-per-trial", help="CPUs, and so threads, of a trial.")] = 1,
    gpus: Annotated[
        float | None, typer.Option("--gpus-per-trial", help="GPUs of a trial, 0.25 for instance; default: 1 if any.")
    ] = None,
    packing: Annotated[
        str | None, typer.Option(metavar="auto|off|N", help="Train trials that differ in numbers as one model.")
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Run backbones through torch.compile.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run trials again that have finished before.")] = False,
    results: Results = Path("results"),
    data_root: DataRoot = None,
    tracking_uri: Uri = None,
) -> None:
    """Run a sweep: every trial that has not finished before, then the tables."""
    with _plain_errors():
        from reports import store
        from runner.plan import split

        plan = _plan(file, dataset, seeds, epochs, settings, scale, data_root)
        uri = store.resolve(tracking_uri)
        _writable(results)
        todo, reused = split(plan.jobs, lambda keys: store.finished_runs(uri, keys), force)
        again = f", {len(reused)} finished before" if reused else ""
        data = ", ".join(f"{use.slug} ({use.train_images:,} + {use.test_images:,} images)" for use in plan.datasets)
        out.print(
            f"Sweep [bold]{plan.sweep.name}[/] on {escape(data)}: {len(todo)} trials to run{again}.", highlight=False
        )

        import cplearn.data
        from runner.execute import Resources, execute
        from runner.packing import parse

        start = functools.partial(
            execute,
            resources=Resources(cpus, gpus),
            packing=parse(packing or plan.sweep.packing),
            data_root=str(cplearn.data.data_root(data_root)),
            compile=compile,
        )
        failed = _run(plan, todo, len(reused), uri, start)
        if len(failed) < len(plan.jobs):
            _report(uri, plan.sweep.name, results, {use.slug for use in plan.datasets}, keep=True)
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def train(
    dataset: DatasetName = None,
    epochs: Epochs = None,
    settings: Setting = [],  # noqa: B006
    device: Device = "",
    save: Annotated[Path | None, typer.Option("--save", metavar="DIR", help="Write the model there.")] = None,
    data_root: DataRoot = None,
) -> None:
    """Train one trial in this process, without Ray and without tracking; print its metrics."""
    with _plain_errors():
        import cplearn.data
        from cplearn import config, training
        from sweeps.spec import nested

        trial = config.Trial.read(nested(_overrides(dataset, epochs, settings)))
        data = cplearn.data.load(trial.dataset, data_root, trial.image_size, trial.decode)

        def log(member: int, epoch: int, metrics: dict[str, float]) -> None:
            terms = "  ".join(f"{name.removeprefix('train/')} {value:.4g}" for name, value in metrics.items())
            out.print(f"epoch {epoch}/{trial.epochs}  {terms}", highlight=False, soft_wrap=True)

        saved = [save] if save else None
        outcome = training.train([trial], data, device=_device(device), log=log, save_to=saved, data_root=data_root)[0]
        _print_metrics(outcome.metrics)
        if outcome.failure:
            err.print(f"[red]failed:[/] {escape(outcome.failure)}", highlight=False)
            raise typer.Exit(FAILED)


@app.command("import-solo")
def import_solo(
    checkpoint: Annotated[Path, typer.Argument(help="A Lightning checkpoint of the authors' code.")],
    dataset: DatasetName = None,
    stem_padding: Annotated[int, typer.Option(min=1, max=2, help="Padding of the stem, which no weight tells.")] = 2,
    device: Device = "",
    save: Annotated[Path | None, typer.Option("--save", metavar="DIR", help="Write the model there.")] = None,
    data_root: DataRoot = None,
) -> None:
    """Read a CPLearn model (ResNet-18) that the authors' code has trained, evaluate it and print its metrics."""
    with _plain_errors():
        import cplearn.data
        from cplearn import solo
        from cplearn.errors import InputError

        found = solo.read(checkpoint, stem_padding)
        name = dataset or found.dataset
        if name is None:
            raise InputError(f"{checkpoint}: no args.json beside it names the data set; give it with --dataset")
        pack = solo.restore(found, cplearn.data.load(name, data_root), _device(device))
        outcome = pack.evaluate()[0]
        _print_metrics(outcome.metrics)
        if outcome.failure:
            err.print(f"[red]failed:[/] {escape(outcome.failure)}", highlight=False)
            raise typer.Exit(FAILED)
        if save:
            pack.model.save_member(0, save)
            out.print(f"Written to [bold]{escape(str(save))}[/]", highlight=False, soft_wrap=True)


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A run id of the tracking store, or a folder that holds a model.")],
    dataset: DatasetName = None,
    settings: Setting = [],  # noqa: B006
    device: Device = "",
    data_root: DataRoot = None,
) -> None:
    """Evaluate a trained model on its own data set or on another; print the metrics."""
    with _plain_errors():
        import cplearn
        import cplearn.data
        from cplearn import protocol, training
        from cplearn.errors import InputError
        from sweeps.spec import nested

        model = cplearn.load(run)
        overrides = _overrides(None, None, settings)
        if other := next((key for key in overrides if not key.startswith("evaluation.")), None):
            raise InputError(f"--set {other}: the model is trained; only evaluation.... can be set", key=other)
        model = model.with_evaluation(nested(overrides).get("evaluation", {}))
        (trial,) = model.trials
        size = model.images["image_size"] if (dataset or trial.dataset).startswith("folder:") else None
        data = cplearn.data.load(dataset or trial.dataset, data_root, size)
        training.check_evaluation(trial, data)
        transfer = protocol.load_transfer(trial, model.images["image_size"], data_root)
        (outcome,) = protocol.run(model.to(_device(device)), data, transfer)
        if outcome.failure:
            err.print(f"[red]failed:[/] {escape(outcome.failure)}", highlight=False)
            raise typer.Exit(FAILED)
        _print_metrics(outcome.metrics)


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
    source: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="imagenet100: make it of this full ImageNet.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --from: other classes, one a line.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="With --from: copy the images instead of linking.")] = False,
    data_root: DataRoot = None,
) -> None:
    """List the data sets, or fetch one, decode it, and print its sizes and fingerprint."""
    with _plain_errors():
        import cplearn.data
        from cplearn.data.catalogue import CATALOGUE
        from cplearn.errors import InputError

        if (source or classes or copy) and name != "imagenet100":
            raise InputError(f"--from, --classes and --copy are for imagenet100, not for {name or 'the list'}")
        if (classes or copy) and not source:
            raise InputError("--classes and --copy need --from, the folder of a full ImageNet")
        if source:
            from cplearn.data import imagenet100

            imagenet100.build(source, data_root, classes, copy)

        if name is None:
            table = Table("name", "what it is", box=None, pad_edge=False)
            for key, entry in CATALOGUE.items():
                table.add_row("folder:PATH" if key == "folder" else key, entry.summary)
            out.print(table)
            return
        loaded = cplearn.data.load(name, data_root)
        unlabelled = len(loaded.pretrain.images) - len(loaded.train.images)
        further = f", {unlabelled:,} unlabelled" if unlabelled else ""
        train, test = len(loaded.train.images), len(loaded.test.images)
        out.print(
            f"{loaded.name}: {train:,} training{further} and {test:,} test images of "
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
            table.add_row(key, "" if default is None else escape(f"{default}"), escape(sentence))
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

        path, failed = benchmark.run(results / "bench", parts, quick, out)
        out.print(f"Written to [bold]{escape(str(path))}[/]", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(FAILED)


def _device(name: str) -> str:
    import torch

    return name or ("cuda" if torch.cuda.is_available() else "cpu")


def _print_metrics(metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
        out.print(f"{name:32} {value:.4f}", highlight=False, soft_wrap=True)


def _overrides(dataset: str | None, epochs: int | None, settings: list[str]) -> dict[str, Any]:
    """Dotted settings to values, as given on the command line."""
    from sweeps.spec import parse_override

    overrides = dict(parse_override(text) for text in settings)
    overrides |= {"dataset": dataset} if dataset else {}
    return overrides | ({"epochs": epochs} if epochs is not None else {})


def _plan(
    file: Path,
    dataset: str | None,
    seeds: int | None,
    epochs: int | None,
    settings: list[str],
    scale: str,
    data_root: Path | None,
) -> Plan:
    from runner.plan import SCHEMA, make_plan
    from sweeps.spec import read_sweep

    described: Sweep = read_sweep(file, SCHEMA, _overrides(dataset, epochs, settings), seeds, scale)
    return make_plan(described, data_root)


def _run(plan: Plan, jobs: list[Job], reused: int, uri: str, start: Callable[..., None]) -> list[str]:
    """Run jobs by `start(jobs, listeners)` under tracking and display; returns the keys of the trials that failed."""
    from runner.progress import Progress
    from runner.tracking import Tracker

    tracker = Tracker(uri, plan)
    progress = Progress(jobs, reused, out)
    try:
        with _sigterm_as_interrupt(), progress:
            start(jobs, [tracker, progress])
    except KeyboardInterrupt:
        tracker.close("KILLED")
        out.print(
            f"\nStopped. {len(progress.done)} of {progress.total} trials have finished and are kept; "
            "run the same command again to do the rest.",
            highlight=False,
        )
        raise typer.Exit(INTERRUPTED) from None
    except BaseException:
        tracker.close("FAILED")
        raise
    tracker.close("FAILED" if progress.failures else "FINISHED")
    for job, reason in progress.failures:
        err.print(f"\n[red]failed:[/] {escape(job.dataset)} {escape(job.name)} (key {job.key})", highlight=False)
        err.print(escape("\n".join(reason.splitlines()[-8:])), highlight=False, soft_wrap=True)
    if progress.failures:
        err.print(
            f"\n{len(progress.failures)} of {progress.total} trials failed; the others are kept.", highlight=False
        )
    return [job.key for job, _ in progress.failures]


def _report(uri: str, name: str, results: Path, datasets: Collection[str] | None, keep: bool = False) -> None:
    """Write a sweep's reports and print its tables; `keep` also logs them to the sweep's run."""
    from reports import build, render, terminal

    for one in build.build(uri, name, results, datasets):
        out.print(terminal.render(one, out.width))
        out.print(f"Written to [bold]{escape(str(one.folder / 'report.html'))}[/]\n", highlight=False, soft_wrap=True)
        if keep:
            from runner import tracking

            files = {path.relative_to(one.folder).as_posix(): path for path in one.files}
            table = render.to_markdown(one.table).partition("<details>")[0].strip()
            tracking.log_report(uri, one.parent, one.dataset, files, table)


def _writable(folder: Path) -> None:
    from cplearn.errors import InputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".write-test").touch()
        (folder / ".write-test").unlink()
    except OSError as error:
        raise InputError(f"--results {folder}: cannot write there ({error.strerror})") from None


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
