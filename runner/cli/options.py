"""Options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from typing import Annotated, Any

from typer import Option

from runner.cli.console import overridden, plain_errors
from runner.driver.options import SweepOptions

OneSetting = Annotated[
    list[str], Option("--set", metavar="KEY=VALUE", help="A setting, method.beta=0.1 say. Can be repeated.")
]
DatasetName = Annotated[
    str | None, Option("--dataset", "-d", metavar="NAME", help="A name `cplearn data` lists, or folder:PATH.")
]
Epochs = Annotated[int | None, Option("--epochs", "-e", min=0, help="Short for --set epochs=N.")]


def with_sweep_options(command: Callable[..., None], without: Collection[str] = ()) -> Callable[..., None]:
    """Give a command the options of a sweep, apart from some: it is called with `SweepOptions` and its own options.

    A mistake of the user's ends it with one sentence and status 2.
    """

    @functools.wraps(command)
    def run(**given: Any) -> None:
        with plain_errors():
            overrides = overridden(*(given.pop(name) for name in settings))
            command(SweepOptions(overrides=overrides, **{name: given.pop(name) for name in shared}), **given)

    options = inspect.signature(SweepOptions, eval_str=True).parameters
    shared = {name: option for name, option in options.items() if name not in {"overrides", *without}}
    settings = inspect.signature(_settings_options, eval_str=True).parameters
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    first = [shared["sweep"], settings["dataset"], shared["seeds"], settings["epochs"], settings["settings"]]
    others = [parameter for name, parameter in shared.items() if name not in ("sweep", "seeds")]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*first, *others, *own)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _settings_options(
    dataset: DatasetName = None,
    epochs: Epochs = None,
    settings: Annotated[
        list[str],
        Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting, epochs=50 say; a list [0.1,1] makes an axis. Can be repeated.",
        ),
    ] = [],  # noqa: B006 (typer wants a literal default)
) -> None:
    """The options that become the `overrides` of a sweep."""
