"""`cplearn sweep`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from runner.cli.console import FAILED, INTERRUPTED, err, note, out, show, sigterm_as_interrupt
from runner.cli.results import AllMetrics, show_reports
from runner.driver.options import Observer, SweepOptions

if TYPE_CHECKING:
    from runner.cli.progress import Progress
    from runner.driver.result import Failure, Tally
    from runner.events import Listener

MOST_LISTED = 10  # Most trials with an equal failure that are named.


def sweep(options: SweepOptions, all_metrics: AllMetrics = False) -> None:
    """Run a sweep: every trial that has not finished before, then the tables."""
    from runner.driver.repeated import unchanged

    observer = TerminalObserver()
    try:
        with sigterm_as_interrupt(), observer:
            if before := unchanged(options):
                show(before[0])
                show_reports(before[1], all_metrics)
                return
            observer.doing("Loading PyTorch and MLflow")
            from runner.driver.run import SweepRun

            run = SweepRun(options, observer)
            run.run()
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    _explain(run.failures, len(run.plan.jobs))
    with observer:
        reports = run.report()
    show_reports(reports, all_metrics)
    if run.failures:
        raise typer.Exit(FAILED)


class TerminalObserver(Observer):
    """Prints sentences, and shows what goes on: in a line that is drawn anew, and while trials run in a live table.
    Where the output is no terminal, a line says that they begin. Leave its block to remove what is drawn."""

    def __init__(self) -> None:
        self.status = out.status("")
        self.progress: Progress | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self.status.stop()

    def doing(self, text: str) -> None:
        if self.progress:
            self.progress.phase = text
            if not out.is_interactive:
                show((f"{text} ...", "dim"))
        elif out.is_interactive:
            self.status.update(Text(f"{text} ..."))
            self.status.start()

    def say(self, text: str) -> None:
        show(text)

    def note(self, text: str) -> None:
        note(text)

    @contextmanager
    def running(self, tally: Tally) -> Iterator[list[Listener]]:
        from rich.live import Live

        from runner.cli.progress import Progress

        self.status.stop()
        self.progress = Progress(tally)
        live = Live(get_renderable=self.progress.render, console=out, refresh_per_second=4, transient=True)
        try:
            with live if out.is_interactive else nullcontext():
                yield [self.progress]
        finally:
            self.progress = None


def _explain(failures: Sequence[Failure], trials: int) -> None:
    """Print each distinct failure with its last lines and the command that repeats it."""
    from runner.events import normalise
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
