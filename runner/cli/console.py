"""What every command does alike: its options, printing, one line for a mistake, a clean stop."""

import functools
import inspect
import logging
import os
import signal
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from cplearn.errors import InputError
from reports.spelling import CONTROL
from runner.driver.options import SweepOptions
from sweeps.errors import UserError
from sweeps.loading import parse_override
from sweeps.secrets import hide_secrets


class SafeConsole(Console):
    """A console that no control character gets through. Where its lines are read by a file, by grep or by an editor
    (TERM=dumb), they are as long as they need."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if not self.is_interactive:
            self.size = ConsoleDimensions(250, 50)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else CONTROL.sub("", text), style, control)


out, err = SafeConsole(), SafeConsole(stderr=True)

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
MESSAGE = 700  # Most characters of an error's message.


@contextmanager
def plain_errors() -> Iterator[None]:
    """A user's mistake is one sentence and status 2, never a traceback."""
    try:
        yield
    except (InputError, UserError, OSError) as error:
        message = str(error)
        if isinstance(error, OSError):
            # A path that is too long, not readable or in the way; what names no file is no fault of a user's path.
            if not isinstance(error.filename, str | bytes | Path):
                raise
            message = f"{error.filename!s}: {error.strerror}"
        show(("error:", "red"), f" {plain(message)}", console=err)
        raise typer.Exit(BAD_INPUT) from None


def plain(message: str) -> str:
    """A message as one line of bounded length, whatever the input that it quotes: nothing steers the terminal."""
    line = " ".join(hide_secrets(message).split())
    line = line if len(line) <= MESSAGE else f"{line[: MESSAGE // 2]} ... {line[-MESSAGE // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let a preempted machine stop a command as cleanly as Ctrl-C does.

    Whoever is impatient must not interrupt the cleaning up: a second signal is ignored. A third ends all at once.
    """
    seen = 0

    def interrupt(number: int, frame: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            raise KeyboardInterrupt
        if seen > 2:
            os._exit(INTERRUPTED)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items() if not seen else ():
            signal.signal(number, handler)


def show(*texts: str | tuple[str, str], console: Console = out) -> None:
    """Print texts, some with a style, as they read: nothing in them is markup. Secrets are left out, and lines are not
    broken."""
    hidden = (hide_secrets(text) if isinstance(text, str) else (hide_secrets(text[0]), text[1]) for text in texts)
    console.print(Text.assemble(*hidden), soft_wrap=True)


def record_without_secrets(*arguments: Any, **further: Any) -> logging.LogRecord:
    """What a library logs, as Python's `logging` wants it made."""
    record = logging.LogRecord(*arguments, **further)
    with suppress(TypeError, ValueError):  # Where message and arguments do not fit, the handler says so.
        record.msg, record.args = hide_secrets(record.getMessage()), None
    if record.exc_info:
        record.exc_text = hide_secrets(logging.Formatter().formatException(record.exc_info))
    return record


def note(text: str) -> None:
    """Print a sentence on something unusual."""
    show(("note", "yellow"), f"   {text}")


def say_written(path: Path) -> None:
    """Print where something was written."""
    show("Written to ", (str(path), "bold"))


def with_sweep_options(command: Callable[..., None], without: Collection[str] = ()) -> Callable[..., None]:
    """Give a command the options of a sweep, apart from some: it is called with `SweepOptions` and its own options."""

    @functools.wraps(command)
    def run(settings: list[str], **given: Any) -> None:
        further = {parameter.name: given.pop(parameter.name) for parameter in further_options}
        command(SweepOptions(settings=dict(map(parse_override, settings)), **given), **further)

    options = inspect.signature(SweepOptions, eval_str=True).parameters.values()
    further_options = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    parameters = []
    for parameter in (*(option for option in options if option.name not in without), *further_options):
        if parameter.name == "settings":
            metadata = parameter.annotation.__metadata__
            parameter = parameter.replace(annotation=Annotated[list[str], *metadata], default=[])
        parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
