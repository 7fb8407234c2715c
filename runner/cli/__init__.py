"""The command line: the one place that knows sweeps, trainer, tracker and reports, and ties them together."""

import atexit
import gc
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable

import typer
from typer.core import TyperGroup

from runner.cli import interface, models, plan, results, sweep, tools
from runner.cli.console import FAILED, plain_errors, record_without_secrets, with_sweep_options
from sweeps.secrets import hide_secrets


class _Commands(TyperGroup):
    """The commands; `~` means home also where no shell says so, as in --results=~/out."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        parts = [arg.partition("=") if arg.startswith("--") else ("", "", arg) for arg in args]
        return super().parse_args(ctx, [name + sign + os.path.expanduser(value) for name, sign, value in parts])


# Imports of torch, ray and mlflow take seconds: they stand in the commands, and each pays only for what it needs.
app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Sweeps of CPLearn and other self-supervised methods: Ray Tune runs them, MLflow keeps them, tables come out.",
)
COMMANDS: dict[str, Callable[..., None]] = {
    "sweep": with_sweep_options(sweep.sweep),
    "plan": with_sweep_options(plan.plan, without=("retries", "stop_after", "checkpoint_every")),
    "train": models.train,
    "import-solo": models.import_solo,
    "evaluate": models.evaluate,
    "export": models.export,
    "report": results.report,
    "verify": results.verify,
    "trace": results.trace,
    "ui": interface.ui,
    "data": tools.data,
    "settings": tools.settings,
    "bench": tools.bench,
    "bench-sweep": tools.bench_sweep,
}
for name, command in COMMANDS.items():
    app.command(name)(plain_errors()(command))


def main() -> None:
    """Entry point of the console script."""
    # Importing torch and mlflow makes a million objects that live until the end. With Python's own thresholds the
    # collector walks through them again and again, and once more at the end: 3 of the 8 s of a plan of 10,000 trials.
    gc.set_threshold(200_000, 20, 20)
    atexit.register(gc.freeze)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # It complains at length of a home that cannot be written.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # A terminal of another encoding shows a question mark for β.
    logging.setLogRecordFactory(record_without_secrets)
    try:
        app()
    except Exception as error:  # A fault of this program or of a library.
        print(hide_secrets("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        sys.exit(FAILED)
