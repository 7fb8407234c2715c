"""Options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.cli.console import overridden, plain_errors
from runner.driver.options import SweepOptions

OneSetting = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="A setting, method.beta=0.1 say. Can be repeated.")
]
DatasetName = Annotated[
    str | None, typer.Option("--dataset", "-d", metavar="NAME", help="A name `cplearn data` lists, or folder:PATH.")
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


def takes_sweep_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a sweep: it is called with `SweepOptions` and with its own options by name.

    A mistake of the user's ends it with one sentence and status 2.
    """
    shared = inspect.signature(_sweep_options, eval_str=True).parameters
    others = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        with plain_errors():
            overrides = overridden(*(given.pop(name) for name in ("dataset", "epochs", "settings")))
            options = SweepOptions(overrides=overrides, **{name: given.pop(name) for name in shared if name in given})
            command(options, **given)

    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*shared.values(), *others)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _sweep_options(
    sweep: Annotated[
        str,
        typer.Argument(metavar="NAME|FILE", help="A sweep's name, beta for instance, or the path of its YAML file."),
    ],
    dataset: DatasetName = None,
    seeds: Annotated[int | None, typer.Option("--seeds", "-s", min=1, help="How many seeds, counted from 0.")] = None,
    epochs: Epochs = None,
    settings: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting, epochs=50 say; a list [0.1,1] makes an axis. Can be repeated.",
        ),
    ] = [],  # noqa: B006 (typer wants a literal default)
    scale: Annotated[
        str, typer.Option(metavar="smoke|small|full", help="A smaller version of the sweep, if the file has one.")
    ] = "full",
    cpus: Annotated[
        float | None,
        typer.Option("--cpus-per-trial", help="CPUs, and so threads, of each process of a trial; default: 1."),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-trial", help="GPUs of a trial: 0.25 for instance, or 8 that share it; default: 1 if any."
        ),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option("--ranks", min=1, help="Processes that share a trial on CPUs; with GPUs: one for each."),
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Run backbones through torch.compile.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run trials again that have finished before.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run trials again that have diverged.")] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            help="Stop after 90m, 4h, 1h30m or 2d, with one seed everywhere before more; exit status 0, and the same "
            "command goes on.",
        ),
    ] = None,
    results: Results = Path("results"),
    checkpoints: Annotated[
        str,
        typer.Option(
            "--checkpoints", envvar="CPLEARN_CHECKPOINTS", metavar="DIR|URI", help="Where interrupted trials are kept."
        ),
    ] = "checkpoints",
    data_root: DataRoot = None,
    tracking_uri: Uri = None,
) -> None:
    """The options of a sweep; apart from the short ones for settings, they are called as in `SweepOptions`."""
