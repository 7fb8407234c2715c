"""What every command does alike: print, explain a mistake in one line, stop cleanly, look at its arguments."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

out, err = Console(), Console(stderr=True)
for console in (out, err):
    if not console.is_terminal:
        console.width = 250  # What reads the lines is a file or grep.

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
MESSAGE = 700
"""Most characters of an error's message."""


@contextmanager
def plain_errors() -> Iterator[None]:
    """A user's mistake is one sentence and status 2, never a traceback."""
    from cplearn.errors import InputError
    from sweeps.errors import UserError

    try:
        yield
    except (InputError, UserError) as error:
        show(f"[red]error:[/] {escape(plain(str(error)))}", err)
        raise typer.Exit(BAD_INPUT) from None


def plain(message: str) -> str:
    """A message as one line of bounded length, whatever the input that it quotes: nothing steers the terminal."""
    line = " ".join(message.split())
    line = line if len(line) <= MESSAGE else f"{line[: MESSAGE // 2]} ... {line[-MESSAGE // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let a preempted machine stop a sweep as cleanly as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def show(markup: str, console: Console = out) -> None:
    """Print a line in rich's markup; where the output is no terminal, it stays one line."""
    console.print(markup, highlight=False, soft_wrap=True)


def say(text: str) -> None:
    """Print a sentence, whatever signs are in it."""
    show(escape(text))


def note(text: str) -> None:
    """Print a sentence on something unusual."""
    show(f"[yellow]note[/]   {escape(text)}")


def say_written(path: Path) -> None:
    """Print where something was written."""
    show(f"Written to [bold]{escape(str(path))}[/]")


def overridden(dataset: str | None, epochs: int | None, settings: list[str]) -> dict[str, Any]:
    """Dotted settings to values, as given on the command line."""
    from sweeps.loading import parse_override

    short = {"dataset": dataset or None, "epochs": epochs}
    given = {key: value for key, value in short.items() if value is not None}
    return dict(parse_override(text) for text in settings) | given
