"""What the terminal shows while a sweep runs: a live table, or plain lines where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from runner.cli.console import note, out, show
from runner.driver.result import Tally
from runner.events import History, Listener, TrialResult
from runner.faults import FailureKind
from runner.planning.plan import Job
from runner.planning.quantities import duration

LOOK_SECONDS = 1.0
"""How often the time that is left is worked out anew; it looks at every trial that is still waiting."""


class Progress(Listener):
    """Shows the events of jobs, and how far the `tally` of the sweep is."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.epochs: dict[str, tuple[int, Mapping[str, float]]] = {}
        self.start = time.monotonic()
        self.remaining: float | None = None
        self.looked = -LOOK_SECONDS

    def started(self, job: Job) -> None:
        self.epochs[job.key] = (0, {})

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
        self.epochs[job.key] = (epoch, dict(metrics))

    def resumed(self, job: Job, history: History) -> None:
        epoch, _, metrics = history[-1]
        self.noted(job, f"goes on after epoch {epoch} of {job.trial.epochs}")
        self.epoch(job, epoch, metrics)

    def finished(self, job: Job, result: TrialResult) -> None:
        shown = {"accuracy {:.3f}": "probe/accuracy", "NMI {:.3f}": "codes/nmi", "codes {:.0f}": "collapse/codes_used"}
        results = (form.format(result.metrics[name]) for form, name in shown.items() if name in result.metrics)
        self._line("[green]done[/]  ", job, ", ".join(results))

    def noted(self, job: Job, text: str) -> None:
        note(f"{job.dataset} {job.name}: {text}")

    def failed(self, job: Job, reason: str, kind: FailureKind) -> None:
        self._line("[red]failed[/]", job, reason.splitlines()[-1] if reason else "")

    def stopped(self, job: Job, epoch: int, reason: str) -> None:
        self._line("[yellow]early[/] ", job, reason)

    def _left(self) -> float | None:
        """Seconds until the sweep ends, as of at most LOOK_SECONDS ago; None if unknown."""
        now = time.monotonic()
        if now - self.looked >= LOOK_SECONDS:
            self.remaining, self.looked = self.tally.estimate.remaining(), now
        return self.remaining

    def _line(self, mark: str, job: Job, text: str) -> None:
        left = self._left()
        ahead = f", {duration(left)} left" if left and self.tally.left else ""
        clock = duration(time.monotonic() - self.start) + ahead
        show(
            f"{mark} {self.tally.ended}/{self.tally.total} [bold]{job.dataset} {job.name}[/]  {escape(text)}  "
            f"[dim]{job.key} ({clock})[/]"
        )

    def render(self) -> RenderableType:
        """The live table."""
        tally, left = self.tally, self._left()
        head = Text.assemble(
            (f"{len(tally.done)} done", "green"),
            f" · {len(tally.running)} running · {max(0, tally.left - len(tally.running))} waiting",
            (f" · {len(tally.failures)} failed" if tally.failures else "", "red"),
            f" · {len(tally.early)} stopped early" if tally.early else "",
            f" · {tally.reused} reused" if tally.reused else "",
            f" · {duration(time.monotonic() - self.start)} elapsed",
            f" · {duration(left)} left" if left is not None else "",
        )
        table = Table(box=None, pad_edge=False, show_edge=False)
        for heading in ("running", "epoch", "loss", "terms"):
            table.add_column(heading, style="bold" if heading == "running" else "")
        hidden = ("train/loss", "train/lr", "train/images_per_second")
        for job in list(tally.running.values())[: max(3, out.height - 6)]:
            epoch, metrics = self.epochs.get(job.key, (0, {}))
            terms = "  ".join(f"{k.removeprefix('train/')} {v:.3g}" for k, v in metrics.items() if k not in hidden)
            loss = f"{metrics['train/loss']:.4g}" if "train/loss" in metrics else "-"
            table.add_row(f"{job.dataset} {job.name}", f"{epoch}/{job.trial.epochs}", loss, terms)
        return Group(head, table)
