"""`cplearn sweep`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import typer

from runner.cli.console import FAILED, INTERRUPTED, err, note, out, show, sigterm_as_interrupt
from runner.cli.results import show_reports
from runner.driver.options import Observer, SweepOptions

if TYPE_CHECKING:
    from runner.driver.result import Failure, Tally
    from runner.events import Listener

MOST_LISTED = 10
"""Most trials with an equal failure that are named."""


def sweep(options: SweepOptions) -> None:
    """Run a sweep: every trial that has not finished before, then the tables."""
    from runner.driver.run import SweepRun

    try:
        with sigterm_as_interrupt():
            run = SweepRun(options, TerminalObserver())
            run.run()
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    _explain(run.failures, len(run.plan.jobs))
    show_reports(run.report())
    if run.failures:
        raise typer.Exit(FAILED)


class TerminalObserver(Observer):
    """Prints sentences, and shows the trials that run."""

    def say(self, text: str) -> None:
        show(text)

    def note(self, text: str) -> None:
        note(text)

    @contextmanager
    def running(self, tally: Tally) -> Iterator[list[Listener]]:
        from rich.live import Live

        from runner.cli.progress import Progress

        progress = Progress(tally)
        live = Live(get_renderable=progress.render, console=out, refresh_per_second=4, transient=True)
        with live if out.is_interactive else nullcontext():
            yield [progress]


def _explain(failures: Sequence[Failure], trials: int) -> None:
    """Print each distinct failure with its last lines and the command that repeats it."""
    from runner.faults import normalise
    from runner.planning.plan import command

    alike: dict[str, list[Failure]] = {}
    for failure in failures:
        alike.setdefault(normalise(failure.reason), []).append(failure)
    for first, *others in alike.values():
        more = f" and {len(others)} more" if others else ""
        show(("\nfailed:", "red"), f" {first}{more}", console=err)
        show("\n".join(first.reason.splitlines()[-8:]), console=err)
        show(f"alone: {command(first.job.trial)}", console=err)
        for other in others[:MOST_LISTED]:
            show(f"  also {other}", console=err)
        if len(others) > MOST_LISTED:
            show(f"  and {len(others) - MOST_LISTED} more", console=err)
    if failures:
        diverged = any(failure.kind == "diverged" for failure in failures)
        hint = "; --retry-failed runs diverged ones again" if diverged else ""
        show(f"\n{len(failures)} of {trials} trials failed; the others are kept{hint}.", console=err)
