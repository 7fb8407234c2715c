"""The command line: the one place that knows sweeps, trainer, tracker and reports, and ties them together."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from runner.budget import Deadline
    from runner.checkpoints import Checkpoints
    from runner.claims import Claims
    from runner.faults import Kind
    from runner.pace import Pace
    from runner.plan import Job, Plan
    from runner.preview import Forecast
    from runner.progress import Progress
    from runner.resources import Resources
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
MESSAGE = 700
"""Most characters of an error's message."""
AT_STOP_SECONDS = 10
"""How long a stopped sweep waits for the tracking store."""
MOST_LISTED = 10

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


SweepPath = Annotated[Path, typer.Argument(help="A sweep file, sweeps/beta.yaml for instance.")]
Seeds = Annotated[int | None, typer.Option("--seeds", "-s", min=1, help="How many seeds, counted from 0.")]
Cpus = Annotated[
    float | None, typer.Option("--cpus-per-trial", help="CPUs, and so threads, of each process of a trial; default: 1.")
]
Gpus = Annotated[
    float | None,
    typer.Option("--gpus-per-trial", help="GPUs of a trial: 0.25 for instance, or 8 that share it; default: 1 if any."),
]
Ranks = Annotated[
    int | None, typer.Option("--ranks", min=1, help="Processes that share a trial on CPUs; with GPUs: one for each.")
]
Packing = Annotated[
    str | None,
    typer.Option("--packing", metavar="auto|off|N", help="Train trials that differ in numbers as one model."),
]
Compile = Annotated[bool, typer.Option("--compile", help="Run backbones through torch.compile.")]
Force = Annotated[bool, typer.Option("--force", help="Run trials again that have finished before.")]
CheckpointPlace = Annotated[
    str,
    typer.Option(
        "--checkpoints", envvar="CPLEARN_CHECKPOINTS", metavar="DIR|URI", help="Where interrupted trials are kept."
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="TIME",
        help="Stop after 90m, 4h, 1h30m or 2d, with one seed everywhere before more; exit status 0, and the same "
        "command goes on.",
    ),
]


@app.command()
def sweep(
    file: SweepPath,
    dataset: DatasetName = None,
    seeds: Seeds = None,
    epochs: Epochs = None,
    settings: Setting = [],  # noqa: B006 (typer wants a literal default)
    scale: Scale = "full",
    cpus: Cpus = None,
    gpus: Gpus = None,
    ranks: Ranks = None,
    packing: Packing = None,
    compile: Compile = False,
    force: Force = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run trials again that have diverged.")] = False,
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
    with _plain_errors():
        import cplearn.data
        from cplearn.errors import InputError
        from reports import store
        from runner.budget import Deadline
        from runner.checkpoints import Checkpoints
        from runner.claims import claims_of
        from runner.faults import Policy
        from runner.pace import Pace
        from runner.packing import parse
        from runner.plan import split
        from runner.preview import line

        policy, deadline = Policy(retries, stop_after), Deadline(budget)
        plan, resources = _plan(file, dataset, seeds, epochs, settings, scale, data_root, (cpus, gpus, ranks))
        width = parse(packing or plan.sweep.packing)
        uri = store.resolve(tracking_uri)
        _check_places(results, uri)
        kept = Checkpoints(checkpoints)
        missing = functools.partial(_missing, uri=uri, force=force, retry_failed=retry_failed)
        todo, failed = missing(plan.jobs)
        before = len(plan.jobs) - len(todo) - len(failed)
        reached = {} if force else kept.epochs({job.key for job in todo})
        expected = _forecast(plan, todo, resources, width, uri, data_root, by_seed=deadline.given, reached=reached)
        # In the order of a budget, if there is one.
        todo = [job for pack in expected.packs for job in pack]
        again = f", {before} finished before" if before else ""
        again += f", {len(failed)} diverged before" if failed else ""
        data = ", ".join(f"{use.slug} ({use.train_images:,} + {use.test_images:,} images)" for use in plan.datasets)
        out.print(
            f"Sweep [bold]{plan.sweep.name}[/] on {escape(data)}: {len(todo)} trials to run{again}.", highlight=False
        )
        if todo:
            out.print(escape(line(expected)), highlight=False, soft_wrap=True)
        pace = Pace(expected.timings, expected.slots)

        from runner.execute import execute

        start = functools.partial(
            execute,
            resources=resources,
            packing=width,
            data_root=str(cplearn.data.data_root(data_root)),
            compile=compile,
            by_seed=deadline.given,
            admit=(lambda pack: deadline.allows(pace.ends_in(pack))) if deadline.given else None,
            checkpoints=kept.place,
            checkpoint_every=checkpoint_every,
            policy=policy,
        )
        stopped, begun = False, False
        with claims_of(uri) as claims:
            with suppress(InputError):
                # Of a trial that finished just before its driver was killed.
                kept.discard({job.key for job in plan.jobs} - {job.key for job in todo})
            while not begun or (todo and not stopped):
                mine = [job for job in todo if claims.take(job.key)]
                todo = [job for job in todo if job.key not in claims.held]
                # Another driver may have finished some since they were looked up.
                mine, given_up = missing(mine)
                failed += given_up
                if mine or not begun:
                    if force:
                        kept.discard({job.key for job in mine})
                    run = functools.partial(_run, kept=kept, claims=claims, force=force, pace=pace, deadline=deadline)
                    progress, stopped = run(plan, mine, before, uri, start)
                    failed += progress.failures
                # Not kept while waiting: two drivers that wait for each other would do so for ever.
                claims.release()
                begun = True
                if todo and not stopped:
                    _wait(claims, todo)
        _explain(plan, failed)
        if split(plan.jobs, lambda keys: store.finished_runs(uri, keys), force=False)[1]:
            _report(uri, plan.sweep.name, results, {use.slug for use in plan.datasets}, keep=True)
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def plan(
    file: SweepPath,
    dataset: DatasetName = None,
    seeds: Seeds = None,
    epochs: Epochs = None,
    settings: Setting = [],  # noqa: B006
    scale: Scale = "full",
    cpus: Cpus = None,
    gpus: Gpus = None,
    ranks: Ranks = None,
    packing: Packing = None,
    compile: Compile = False,
    force: Force = False,
    checkpoints: CheckpointPlace = "checkpoints",
    budget: Budget = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time a few steps of every kind of trial here, for a minute at most.")
    ] = False,
    every: Annotated[bool, typer.Option("--list", help="List every trial with its key and state.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead: seconds, bytes, keys.")] = False,
    results: Results = Path("results"),
    data_root: DataRoot = None,
    tracking_uri: Uri = None,
) -> None:
    """Say what `cplearn sweep` would run with the same options, for how long and with how much disk; run nothing."""
    with _plain_errors():
        import json

        from reports import store
        from runner import preview
        from runner.budget import Deadline
        from runner.checkpoints import Checkpoints
        from runner.packing import parse

        deadline = Deadline(budget)
        planned, resources = _plan(file, dataset, seeds, epochs, settings, scale, data_root, (cpus, gpus, ranks))
        width = parse(packing or planned.sweep.packing)
        uri = store.resolve(tracking_uri)
        _check_places(results, uri)
        keys = {job.key for job in planned.jobs}
        known = {key: vars(run) for key, run in store.known_runs(uri, keys).items()}
        reached = {} if force else Checkpoints(checkpoints).epochs(keys)
        placed = preview.place(planned.jobs, known, reached, force)
        todo = [one.job for one in placed if one.state != "reused"]
        expected = _forecast(
            planned,
            todo,
            resources,
            width,
            uri,
            data_root,
            by_seed=deadline.given,
            reached=reached,
            calibrate=calibrate,
        )
        if as_json:
            print(json.dumps(preview.as_dict(planned, placed, expected, deadline.seconds)))
        else:
            shown = preview.render(planned, placed, expected, width != 1, deadline.seconds, every)
            out.print(shown, highlight=False, soft_wrap=True)


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
        device = _device(device)
        if save:
            _check_folder("--save", save)
        data = cplearn.data.load(**trial.data_request(), root=data_root)

        def log(member: int, epoch: int, metrics: dict[str, float]) -> None:
            terms = "  ".join(f"{name.removeprefix('train/')} {value:.4g}" for name, value in metrics.items())
            out.print(f"epoch {epoch}/{trial.epochs}  {terms}", highlight=False, soft_wrap=True)

        saved = [save] if save else None
        outcome = training.train([trial], data, device=device, log=log, save_to=saved, data_root=data_root)[0]
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
    table: Annotated[
        str | None, typer.Option("--table", metavar="NAME|FILE", help="One of the paper's tables, or a YAML file.")
    ] = None,
    sweeps: Annotated[
        list[str] | None, typer.Option("--sweep", metavar="NAME", help="With --table: only trials of this sweep.")
    ] = None,
    where: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE", help="With --table: only trials with this setting.")
    ] = [],  # noqa: B006
    results: Results = Path("results"),
    tracking_uri: Uri = None,
) -> None:
    """Write tables and figures from the runs in the tracking store, without running anything."""
    with _plain_errors():
        from cplearn.data.catalogue import slug
        from reports import build, store, terminal
        from reports.errors import ReportError
        from sweeps.spec import parse_override

        uri = store.resolve(tracking_uri)
        if table:
            if name or dataset:
                raise ReportError(
                    "--table goes with --sweep NAME and --where dataset=NAME, not with a sweep or --dataset"
                )
            kept = dict(parse_override(text) for text in where)
            written = build.build_table(uri, table, results, sweeps, kept)
            out.print(terminal.render_table(written.table))
            out.print(f"Written to [bold]{escape(str(written.folder))}[/]\n", highlight=False, soft_wrap=True)
            return
        if sweeps or where:
            raise ReportError("--sweep and --where go with --table; for the report of a sweep give its name alone")
        only = {slug(dataset)} if dataset else None
        names = [name] if name else store.list_sweeps(uri, only)
        if not names:
            raise ReportError(f"no sweep in the store was run on {dataset}")
        for one in names:
            _report(uri, one, results, only)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="A table's file, or a folder of results.")] = Path("results"),
    tracking_uri: Uri = None,
) -> None:
    """Compute every cell of written tables anew from the tracking store; fail if one has drifted."""
    with _plain_errors():
        from reports import provenance, store

        checked = provenance.verify(store.resolve(tracking_uri), path)
        for one in checked:
            for sentence in one.drift:
                err.print(
                    f"[red]drift:[/] {escape(str(one.folder))}: {escape(sentence)}", highlight=False, soft_wrap=True
                )
        numbers = sum(one.numbers for one in checked)
        drifted = sum(bool(one.drift) for one in checked)
        if drifted:
            out.print(f"{drifted} of {len(checked)} tables have drifted; write them again with: cplearn report")
            raise typer.Exit(FAILED)
        out.print(f"{numbers:,} numbers in {len(checked)} tables agree with the tracking store.", highlight=False)


@app.command()
def trace(
    path: Annotated[Path, typer.Argument(help="A table's file: table.md, table.tex, ...")],
    words: Annotated[list[str], typer.Argument(help="What the cell's row and column are called, roughly.")],
    tracking_uri: Uri = None,
) -> None:
    """Print the runs behind a cell of a table, their settings, and the command that repeats each."""
    with _plain_errors():
        from reports import provenance, store, terminal

        for one in provenance.trace(store.resolve(tracking_uri), path, words):
            out.print(terminal.render_trace(one), soft_wrap=True, highlight=False)


@app.command()
def ui(
    port: Annotated[int, typer.Option("--port", "-p", help="Port on 127.0.0.1.")] = 5000,
    tracking_uri: Uri = None,
) -> None:
    """Open MLflow's user interface on 127.0.0.1, where runs can be compared."""
    with _plain_errors():
        from reports import store
        from runner.tracking import check_store

        uri = store.resolve(tracking_uri)
        check_store(uri, store.without_secrets(uri))
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


@app.command("bench-sweep")
def bench_sweep(
    quick: Annotated[bool, typer.Option("--quick", help="Try the machinery; the numbers then mean nothing.")] = False,
    results: Results = Path("results"),
) -> None:
    """Measure what a sweep of 2,000 trials costs beside the training, for minutes; write bench-sweep.md and .json."""
    with _plain_errors():
        from runner import bench as benchmark

        path, failed = benchmark.run(results / "bench", None, quick, out, benchmark.SWEEP, "bench-sweep")
        out.print(f"Written to [bold]{escape(str(path))}[/]", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(FAILED)


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
    asked: tuple[float | None, float | None, int | None],
) -> tuple[Plan, Resources]:
    """A sweep's plan, and what each of its trials runs on; `asked` are CPUs, GPUs and ranks of the command line."""
    from runner.plan import SCHEMA, make_plan
    from sweeps.spec import read_sweep

    described: Sweep = read_sweep(file, SCHEMA, _overrides(dataset, epochs, settings), seeds, scale)
    resources = _resources(described, *asked)
    return make_plan(described, data_root, resources.processes), resources


def _forecast(
    plan: Plan,
    jobs: list[Job],
    resources: Resources,
    width: int | None,
    uri: str,
    data_root: Path | None,
    *,
    by_seed: bool,
    reached: Mapping[str, int],
    calibrate: bool = False,
) -> Forecast:
    """How the missing jobs would run, and for how long; with `by_seed` in the order of a budget."""
    import cplearn.data
    from cplearn.training import member_bytes
    from reports import store
    from runner import budget, packing, preview
    from runner import resources as places

    remote = bool(os.environ.get("RAY_ADDRESS"))
    if remote:
        from runner.execute import cluster

        resources, slots = cluster(resources)
    else:
        resources, slots = places.local(resources)

    def fitting(job: Job) -> int:
        dataset = cplearn.data.load(**job.trial.data_request(), root=data_root)
        return int(packing.MEMORY_SHARE * places.local_memory(resources) / member_bytes(job.trial, dataset))

    if not jobs:
        return preview.forecast([], {}, resources, slots, 0, {})
    disk = preview.stored(jobs, plan, None if remote else places.memory())

    def packed(jobs: list[Job]) -> list[list[Job]]:
        return packing.group(jobs, width, slots, None if remote else fitting, reached, by_seed=by_seed)

    packs = packed(jobs)
    threads = max(1, int(resources.cpus))
    hardware = places.hardware(resources, remote)
    timings, unsure = preview.timings(
        plan, packs, hardware, lambda method, fingerprint: store.timed_runs(uri, method, fingerprint)
    )
    if calibrate:
        from runner.calibrate import calibrate as measure

        timings |= measure(unsure, hardware["device"], threads, data_root)
    if by_seed:
        seconds = preview.seconds_by_job(packs, timings)
        packs = packed(budget.order(jobs, plan.sweep.seeds, plan.sweep.axes, lambda job: seconds.get(job.key)))
    return preview.forecast(packs, timings, resources, slots, disk, reached)


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
    *,
    kept: Checkpoints,
    claims: Claims,
    force: bool,
    pace: Pace,
    deadline: Deadline,
) -> tuple[Progress, bool]:
    """Run jobs by `start(jobs, listeners)` under tracking and display.

    Returns what has become of them, and whether the sweep is to end here: because a failure was repeated too often, or
    because its time is up.
    """
    from cplearn.errors import InputError
    from runner.progress import Progress
    from runner.tracking import Tracker

    progress = Progress(jobs, reused, out, pace)

    def forget(key: str) -> None:
        # A file that stays does no harm: a finished trial is not run again.
        with suppress(InputError):
            kept.discard({key})

    with claims.alone():
        tracker = Tracker(uri, plan, claim=claims.take, anew=force, forget=forget, say=progress.say)
    repeated: str | None = None
    try:
        with _sigterm_as_interrupt(), deadline, progress:
            repeated = start(jobs, [tracker, progress])
    except KeyboardInterrupt:
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
        with _stoppable("The store is not waited for; run the same command again to make up for what it lacks."):
            tracker.close("FAILED" if progress.failures or repeated else "FINISHED")
    left = progress.total - len(progress.done) - len(progress.failures)
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


def _resources(sweep: Sweep, cpus: float | None, gpus: float | None, ranks: int | None) -> Resources:
    """What a trial is given: as the command line says, else the sweep file, else the defaults."""
    from runner.resources import Resources

    asked = sweep.resources
    # A number of GPUs on the command line is also a number of processes.
    own = ranks or (asked.ranks if gpus is None else None) or 1
    each = next(number for number in (cpus, asked.cpus, 1) if number is not None)
    return Resources(each, asked.gpus if gpus is None else gpus, own)


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


def _device(name: str) -> str:
    """The device of that name, by default the GPU if there is one; raises InputError if torch cannot use it."""
    import torch

    from cplearn.errors import InputError

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name).tolist()
    except (RuntimeError, AssertionError, NotImplementedError, ValueError):
        raise InputError(f"--device {name!r}: not to be had here; write cpu, cuda or cuda:1") from None
    return name


def _check_places(results: Path, uri: str) -> None:
    """Raise InputError unless tables and runs can be written to where they should go; creates nothing."""
    from reports import store
    from runner.tracking import check_store

    _check_folder("--results", results)
    check_store(uri, store.without_secrets(uri))


def _check_folder(option: str, folder: Path) -> None:
    from cplearn.errors import InputError

    existing = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise InputError(f"{option} {folder}: cannot write there ({error.strerror})") from None


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
        err.print(f"[red]error:[/] {escape(_plain(str(error)))}", highlight=False, soft_wrap=True)
        raise typer.Exit(BAD_INPUT) from None


def _plain(message: str) -> str:
    """A message as one line of bounded length, whatever the input that it quotes: nothing steers the terminal."""
    line = " ".join(message.split())
    line = line if len(line) <= MESSAGE else f"{line[: MESSAGE // 2]} ... {line[-MESSAGE // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
