"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Setting = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="A setting, epochs=50 say; a list [0.1,1] makes an axis. Can be repeated."
    ),
]
OneSetting = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="A setting, method.beta=0.1 say. Can be repeated.")
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
Threads = Annotated[
    int, typer.Option("--cpus", min=1, help="CPUs, and so threads; by default 1, as for a trial of a sweep.")
]
Uri = Annotated[
    str | None,
    typer.Option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", metavar="URI", help="MLflow store; ./mlflow.db."),
]


SweepName = Annotated[
    str, typer.Argument(metavar="NAME|FILE", help="A sweep's name, beta for instance, or the path of its YAML file.")
]
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
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Run trials again that have diverged.")]
