"""What a sweep is asked to do, and who hears how it goes."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from cplearn.errors import InputError
from reports.spelling import printable

if TYPE_CHECKING:
    from runner.driver.result import Tally
    from runner.events import Listener

DatasetName = Annotated[
    str | None, Option("--dataset", "-d", metavar="NAME", help="A name `cplearn data` lists, or folder:PATH.")
]
Epochs = Annotated[int | None, Option("--epochs", "-e", min=0, help="Short for --set epochs=N.")]
Results = Annotated[Path, Option("--results", metavar="DIR", help="Where tables and figures go.")]
DataRoot = Annotated[
    Path | None, Option("--data-root", envvar="CPLEARN_DATA", metavar="DIR", help="Data sets and caches; ./data.")
]
Uri = Annotated[
    str | None, Option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", metavar="URI", help="MLflow store; ./mlflow.db.")
]


@dataclass(frozen=True)
class SweepOptions:
    """What a sweep is asked to do. The command line takes its options, and their order and words, from these fields.

    `settings` are values of dotted settings; a list of values makes an axis.

    >>> SweepOptions("beta", epochs=1, settings={"method.beta": [0.1, 1]}).overrides
    {'method.beta': [0.1, 1], 'epochs': 1}
    """

    sweep: Annotated[
        str, Argument(metavar="NAME|FILE", help="A sweep's name, beta for instance, or the path of its YAML file.")
    ]
    dataset: DatasetName = None
    seeds: Annotated[int | None, Option("--seeds", "-s", min=1, help="How many seeds, counted from 0.")] = None
    epochs: Epochs = None
    settings: Annotated[
        Mapping[str, Any],
        Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting, epochs=50 say; a list [0.1,1] makes an axis. Can be repeated.",
        ),
    ] = field(default_factory=dict)
    scale: Annotated[
        str, Option(metavar="smoke|small|full", help="A smaller version of the sweep, if the file has one.")
    ] = "full"
    cpus: Annotated[
        float | None, Option("--cpus-per-trial", help="CPUs, and so threads, of each process of a trial; default: 1.")
    ] = None
    gpus: Annotated[
        float | None,
        Option("--gpus-per-trial", help="GPUs of a trial: 0.25 for instance, or 8 that share it; default: 1 if any."),
    ] = None
    ranks: Annotated[
        int | None, Option("--ranks", min=1, help="Processes that share a trial on CPUs; with GPUs: one for each.")
    ] = None
    compile: Annotated[bool, Option("--compile", help="Run backbones through torch.compile.")] = False
    force: Annotated[bool, Option("--force", help="Run trials again that have finished before.")] = False
    retry_failed: Annotated[bool, Option("--retry-failed", help="Run trials again that have diverged.")] = False
    budget: Annotated[
        str | None,
        Option(
            metavar="TIME",
            help="Stop after 90m, 4h, 1h30m or 2d, with one seed everywhere before more; exit status 0, and the same "
            "command goes on.",
        ),
    ] = None
    results: Results = Path("results")
    checkpoints: Annotated[
        str,
        Option(
            envvar="CPLEARN_CHECKPOINTS",
            metavar="DIR|URI",
            parser=os.path.expanduser,
            help="Where interrupted trials are kept.",
        ),
    ] = "checkpoints"
    data_root: DataRoot = None
    tracking_uri: Uri = None
    retries: Annotated[int, Option(help="Attempts after a lost worker or lack of memory.")] = 3
    stop_after: Annotated[int, Option(help="Stop at so many failures that are the same; 0: never.")] = 3
    checkpoint_every: Annotated[
        float, Option(min=0, metavar="SECONDS", help="Least time between a trial's checkpoints.")
    ] = 60

    def __post_init__(self) -> None:
        for option, number in (("--retries", self.retries), ("--stop-after", self.stop_after)):
            if number < 0:
                raise InputError(f"{option} must be at least 0, not {number}")

    @property
    def overrides(self) -> dict[str, Any]:
        """What differs from the sweep's file."""
        return with_short(self.settings, self.dataset, self.epochs)


def with_short(settings: Mapping[str, Any], dataset: str | None, epochs: int | None) -> dict[str, Any]:
    """Dotted settings, and what the short options say of two of them."""
    short = {"dataset": dataset or None, "epochs": epochs}
    return {**settings, **{key: value for key, value in short.items() if value is not None}}


class Observer:
    """Hears how a sweep goes. This one shows nothing; a subclass overrides what it wants to show."""

    def say(self, text: str) -> None:
        """Hear a sentence on what the sweep does."""

    def doing(self, text: str) -> None:
        """Hear what the sweep begins to do, in a few words, where that may take seconds."""

    def note(self, text: str) -> None:
        """Hear of something unusual; a thread of the tracker may call this."""

    @contextmanager
    def running(self, tally: "Tally") -> "Iterator[list[Listener]]":
        """Trials run inside of this; gives listeners that hear of each event, after `tally` has counted it."""
        yield []


class Printer(Observer):
    """Prints each sentence on a line."""

    def say(self, text: str) -> None:
        print(printable(text))

    def note(self, text: str) -> None:
        print(printable(f"note: {text}"))
