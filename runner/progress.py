"""What the terminal shows while a sweep runs: a live table, or plain lines where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from runner.faults import FailureKind
from runner.planning.plan import Job
from runner.planning.quantities import duration
from runner.timing import ProgressEstimate

LOOK_SECONDS = 1.0
"""How often the time that is left is worked out anew; it looks at every trial that is still waiting."""


class Progress:
    """Counts jobs and epochs; a `runner.events.Listener` and a context manager that draws while it is entered.

    `to_come` says how many jobs a search may still suggest.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        reused: int,
        console: Console,
        pace: ProgressEstimate | None = None,
        to_come: Callable[[], int] = lambda: 0,
    ) -> None:
        self.console = console
        self.known, self.to_come, self.reused = {job.key for job in jobs}, to_come, reused
        self.pace = pace or ProgressEstimate({})
        self.running: dict[str, tuple[Job, int, dict[str, float]]] = {}
        self.done: list[Job] = []
        self.failures: list[tuple[Job, str, FailureKind]] = []
        self.early: list[Job] = []
        self.start = time.monotonic()
        self.live: Live | None = None
        self.left: float | None = None
        self.looked: float | None = None

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.live = Live(get_renderable=self.render, console=self.console, refresh_per_second=4, transient=True)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    # Events of jobs.

    def planned(self, jobs: Sequence[Job]) -> None:
        self.pace.planned(jobs)
        self.known |= {job.key for job in jobs}

    def started(self, job: Job) -> None:
        self.pace.started(job)
        self.running[job.key] = (job, 0, {})

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
        self.running[job.key] = (job, epoch, dict(metrics))
        self.pace.epoch(job, epoch)

    def resumed(self, job: Job, history: Sequence[tuple[int, int, Mapping[str, float]]]) -> None:
        epoch, _, metrics = history[-1]
        self.say(f"{job.dataset} {job.name}: goes on after epoch {epoch} of {job.trial.epochs}")
        self.running[job.key] = (job, epoch, dict(metrics))
        self.pace.resumed(job, epoch)

    def finished(
        self, job: Job, metrics: Mapping[str, float], files: Mapping[str, bytes], hardware: Mapping[str, str]
    ) -> None:
        self._stop(job)
        self.done.append(job)
        accuracy = metrics.get("probe/accuracy")
        shown = [f"accuracy {accuracy:.3f}" if accuracy is not None else ""]
        shown += [f"NMI {metrics['codes/nmi']:.3f}" if "codes/nmi" in metrics else ""]
        shown += [f"codes {metrics['collapse/codes_used']:.0f}" if "collapse/codes_used" in metrics else ""]
        self._line("[green]done[/]  ", job, ", ".join(filter(None, shown)))

    def noted(self, job: Job, text: str) -> None:
        self.say(f"{job.dataset} {job.name}: {text}")

    def say(self, text: str) -> None:
        """Show a sentence above the table."""
        self.console.print(f"[yellow]note[/]   {escape(text)}", highlight=False, soft_wrap=True)

    def failed(self, job: Job, reason: str, kind: FailureKind) -> None:
        self._stop(job, failed=True)
        self.failures.append((job, reason, kind))
        self._line("[red]failed[/]", job, reason.splitlines()[-1] if reason else "")

    def stopped(self, job: Job, epoch: int, reason: str) -> None:
        self._stop(job, failed=True)
        self.early.append(job)
        self._line("[yellow]early[/] ", job, reason)

    def _stop(self, job: Job, *, failed: bool = False) -> None:
        self.running.pop(job.key, None)
        self.pace.ended(job, failed=failed)

    @property
    def total(self) -> int:
        """Jobs of this call, as far as it is known yet."""
        return len(self.known) + self.to_come()

    @property
    def ended(self) -> int:
        """Jobs of which no more is to come in this call."""
        return len(self.done) + len(self.failures) + len(self.early)

    def _left(self) -> float | None:
        """Seconds until the sweep ends, as of at most LOOK_SECONDS ago; None if unknown."""
        now = time.monotonic()
        if self.looked is None or now - self.looked >= LOOK_SECONDS:
            self.left, self.looked = self.pace.remaining(), now
        return self.left

    def _line(self, mark: str, job: Job, text: str) -> None:
        finished = self.ended
        left = self._left()
        ahead = f", {duration(left)} left" if left and self.ended < self.total else ""
        clock = duration(time.monotonic() - self.start) + ahead
        # soft_wrap: a log is read by grep, which wants one line an event.
        self.console.print(
            f"{mark} {finished}/{self.total} [bold]{job.dataset} {job.name}[/]  {escape(text)}  "
            f"[dim]{job.key} ({clock})[/]",
            highlight=False,
            soft_wrap=True,
        )

    def render(self) -> RenderableType:
        """The live table."""
        left = self._left()
        waiting = max(0, self.total - self.ended - len(self.running))
        head = Text.assemble(
            (f"{len(self.done)} done", "green"),
            f" · {len(self.running)} running · {waiting} waiting",
            (f" · {len(self.failures)} failed" if self.failures else "", "red"),
            f" · {len(self.early)} stopped early" if self.early else "",
            f" · {self.reused} reused" if self.reused else "",
            f" · {duration(time.monotonic() - self.start)} elapsed",
            f" · {duration(left)} left" if left is not None else "",
        )
        table = Table(box=None, pad_edge=False, show_edge=False)
        for heading in ("running", "epoch", "loss", "terms"):
            table.add_column(heading, style="bold" if heading == "running" else "")
        hidden = ("train/loss", "train/lr", "train/images_per_second")
        for job, epoch, metrics in list(self.running.values())[: max(3, self.console.height - 6)]:
            terms = "  ".join(f"{k.removeprefix('train/')} {v:.3g}" for k, v in metrics.items() if k not in hidden)
            loss = f"{metrics['train/loss']:.4g}" if "train/loss" in metrics else "-"
            table.add_row(f"{job.dataset} {job.name}", f"{epoch}/{job.trial.epochs}", loss, terms)
        return Group(head, table)
