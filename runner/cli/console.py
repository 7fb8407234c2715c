"""What every command does alike: print, explain a mistake in one line, stop cleanly, look at its arguments."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape


def _console(stderr: bool = False) -> Console:
    """Where the output is no terminal, lines are as long as they are: what reads them is a file or grep."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=250)


out, err = _console(), _console(stderr=True)

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
        err.print(f"[red]error:[/] {escape(plain(str(error)))}", highlight=False, soft_wrap=True)
        raise typer.Exit(BAD_INPUT) from None


def plain(message: str) -> str:
    """A message as one line of bounded length, whatever the input that it quotes: nothing steers the terminal."""
    line = " ".join(message.split())
    line = line if len(line) <= MESSAGE else f"{line[: MESSAGE // 2]} ... {line[-MESSAGE // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


@contextmanager
def stoppable(text: str) -> Iterator[None]:
    """Ctrl-C ends the command with a sentence."""
    try:
        with sigterm_as_interrupt():
            yield
    except KeyboardInterrupt:
        out.print(text, highlight=False)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let a preempted machine stop a sweep as cleanly as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say(text: str) -> None:
    """Print a sentence, whatever signs are in it."""
    out.print(escape(text), highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a sentence on something unusual."""
    out.print(f"[yellow]note[/]   {escape(text)}", highlight=False, soft_wrap=True)


def print_metrics(metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
        out.print(f"{name:32} {value:.4f}", highlight=False, soft_wrap=True)


def usable_device(name: str, threads: int) -> str:
    """The device of that name, by default the GPU if there is one; raises InputError if torch cannot use it.

    On the CPU torch computes with `threads` from now on, which decides how sums are rounded.
    """
    import torch

    from cplearn.errors import InputError

    torch.set_num_threads(threads)
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=name).tolist()
    except (RuntimeError, AssertionError, NotImplementedError, ValueError):
        raise InputError(f"--device {name!r}: not to be had here; write cpu, cuda or cuda:1") from None
    return name


def check_port(port: int) -> None:
    """Raise InputError if another program listens at a port of the loopback."""
    from cplearn.errors import InputError

    try:
        with socket.create_server(("127.0.0.1", port)):
            pass
    except OSError as error:
        raise InputError(f"--port {port}: {os.strerror(error.errno or 0)}; choose another") from None


def counted(n: int, noun: str) -> str:
    """`1 table`, `2 tables`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def overridden(dataset: str | None, epochs: int | None, settings: list[str]) -> dict[str, Any]:
    """Dotted settings to values, as given on the command line."""
    from sweeps.loading import parse_override

    overrides = dict(parse_override(text) for text in settings)
    overrides |= {"dataset": dataset} if dataset else {}
    return overrides | ({"epochs": epochs} if epochs is not None else {})
