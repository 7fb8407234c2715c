"""What the terminal shows while a sweep runs: a live table, or plain lines where the output is no terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runner.cli.console import note, out, show
from runner.driver.result import Tally
from runner.events import History, Listener, TrialResult
from runner.faults import FailureKind
from runner.planning.plan import Job
from runner.planning.quantities import duration
from sweeps.collapse import WATCHED

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
        shown = {"accuracy {:.3f}": "probe/accuracy", "NMI {:.3f}": "codes/nmi"}
        if not shown.values() & result.metrics.keys():  # Without labels.
            shown = {"view information {:.3f}": "select/view_information"}
        shown["codes {:.0f}"] = "collapse/codes_used"
        results = (form.format(result.metrics[name]) for form, name in shown.items() if name in result.metrics)
        self._line("done", "green", job, ", ".join(results))

    def noted(self, job: Job, text: str) -> None:
        note(f"{job.dataset} {job.name}: {text}")

    def failed(self, job: Job, reason: str, kind: FailureKind) -> None:
        self._line("failed", "red", job, reason.splitlines()[-1] if reason else "")

    def stopped(self, job: Job, epoch: int, reason: str, collapse: str = "", result: TrialResult | None = None) -> None:
        self._line("early", "yellow", job, reason)

    def _left(self, separator: str) -> str:
        """How long until the sweep ends, as of at most LOOK_SECONDS ago, after a separator; empty if unknown."""
        now = time.monotonic()
        if now - self.looked >= LOOK_SECONDS:
            self.remaining, self.looked = self.tally.estimate.remaining(self.tally.left), now
        if self.remaining is None or not self.tally.left:
            return ""
        return f"{separator}{duration(self.remaining) if self.remaining >= 60 else 'less than a minute'} left"

    def _line(self, word: str, style: str, job: Job, text: str) -> None:
        clock = duration(time.monotonic() - self.start) + self._left(", ")
        show(
            (f"{word:6}", style),
            f" {self.tally.ended}/{self.tally.total} ",
            (f"{job.dataset} {job.name}", "bold"),
            f"  {text}  ",
            (f"{job.key} ({clock})", "dim"),
        )

    def render(self) -> RenderableType:
        """The live table."""
        tally = self.tally
        head = Text.assemble(
            (f"{len(tally.done)} done", "green"),
            f" · {len(tally.running)} running · {max(0, tally.left - len(tally.running))} waiting",
            (f" · {len(tally.failures)} failed" if tally.failures else "", "red"),
            f" · {len(tally.early)} stopped early" if tally.early else "",
            f" · {tally.reused} reused" if tally.reused else "",
            f" · {duration(time.monotonic() - self.start)} elapsed",
            self._left(" · "),
        )
        table = Table(box=None, pad_edge=False, show_edge=False)
        for heading in ("running", "epoch", "loss", "terms"):
            style = "bold" if heading == "running" else ""
            table.add_column(heading, style=style, no_wrap=heading in ("epoch", "loss"))
        hidden = {"train/loss", "train/lr", "train/images_per_second", *(f"train/{name}" for name in WATCHED)}
        instead_of_accuracy = {"train/view_information", "train/codes_used"}
        for job in list(tally.running.values())[: max(3, out.height - 6)]:
            epoch, metrics = self.epochs.get(job.key, (0, {}))
            no_labels = job.sizes is not None and not job.sizes.classes
            left_out = hidden - instead_of_accuracy if no_labels else hidden
            terms = "  ".join(f"{k.removeprefix('train/')} {v:.3g}" for k, v in metrics.items() if k not in left_out)
            loss = f"{metrics['train/loss']:.4g}" if "train/loss" in metrics else "-"
            table.add_row(Text(f"{job.dataset} {job.name}"), f"{epoch}/{job.trial.epochs}", loss, terms)
        return Group(head, table)
