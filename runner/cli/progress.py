"""What the terminal shows while a sweep runs: a live table, or plain lines where the output is no terminal."""

import math
import time
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runner.cli.console import note, out, show
from runner.driver.result import Tally
from runner.events import FailureKind, History, Listener, TrialResult
from runner.planning.plan import Job
from runner.planning.quantities import Interval, duration
from sweeps.record import BASELINE, LOSS

OUTCOME = {
    "probe/accuracy": "accuracy {:.3f}",
    "codes/ami": "AMI {:.3f}",
    "select/view_information": "view information {:.3f}",
    "collapse/codes_used": "codes {:.0f}",
}
"""The metrics that decide, and how the line of a trial that has ended shows them; view information only where no image
has a label."""

EPOCH = {
    "accuracy": ("train/online_accuracy", "{:.3f}"),
    "k-NN": ("train/knn_accuracy", "{:.3f}"),
    "codes": ("train/codes_used", "{:.0f}"),
    "view inf.": ("train/view_information", "{:.3f}"),
}
"""What the live table shows of the last epoch beside the loss, where trials measure it."""

LOOK_SECONDS = 1.0  # How often the time that is left is worked out anew; it looks at every trial that is still waiting.

BLOCKS = "▁▂▃▄▅▆▇█"
MOST_BLOCKS = 12


def outcome(metrics: Mapping[str, float]) -> str:
    """What the line of a trial says of its metrics.

    >>> outcome({"probe/accuracy": 0.9123, "codes/nmi": 0.5, "collapse/codes_used": 17.0})
    'accuracy 0.912, codes 17'
    """
    shown = metrics.keys() - ({"select/view_information"} if "probe/accuracy" in metrics else set())
    return ", ".join(form.format(metrics[name]) for name, form in OUTCOME.items() if name in shown)


def sparkline(values: Sequence[float], width: int = MOST_BLOCKS) -> str:
    """Values as blocks between their least and their greatest, at most `width` of them, evenly spaced and with the
    last one; values that are not finite are left out.

    >>> sparkline([4.0, 3.0, 2.5, 2.0]), sparkline([1.0, 1.0])
    ('█▅▃▁', '▁▁')
    """
    values = [value for value in values if math.isfinite(value)]
    if len(values) > width:
        values = [values[round(place * (len(values) - 1) / (width - 1))] for place in range(width)]
    low = min(values, default=0.0)
    spread = max(values, default=0.0) - low or 1.0
    return "".join(BLOCKS[round((value - low) / spread * (len(BLOCKS) - 1))] for value in values)


def time_left(left: Interval | None) -> str:
    """How long it still takes, with the range in which that probably lies; empty if unknown.

    >>> time_left(Interval(95, 110, 150))
    '1 min 50 s left (1 min 35 s to 2 min 30 s)'
    """
    if left is None:
        return ""
    if left.middle < 60:
        return "less than a minute left"
    return f"{duration(left.middle)} left ({duration(left.low)} to {duration(left.high)})"


class Progress(Listener):
    """Shows the events of jobs, and how far the `tally` of the sweep is. `phase` says what goes on as long as no trial
    has begun."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.phase = ""
        self.epochs: dict[str, tuple[int, Mapping[str, float]]] = {}
        self.losses: dict[str, list[float]] = {}
        self.best: tuple[float, str] | None = None
        """The highest value of the metric that counts most, and the line of its trial."""
        self.start = time.monotonic()
        self.left = ""
        self.looked = -LOOK_SECONDS

    def planned(self, jobs: Sequence[Job]) -> None:
        self.phase = "Starting workers"

    def started(self, job: Job) -> None:
        self.phase = ""
        self.epochs[job.key] = (0, {})
        self.losses.setdefault(job.key, [])

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
        self.epochs[job.key] = (epoch, dict(metrics))
        if LOSS in metrics:
            self.losses[job.key].append(metrics[LOSS])

    def resumed(self, job: Job, history: History) -> None:
        epoch, _, metrics = history[-1]
        self.noted(job, f"goes on after epoch {epoch} of {job.trial.epochs}")
        self.losses[job.key] = [earlier[LOSS] for _, _, earlier in history[:-1] if LOSS in earlier]
        self.epoch(job, epoch, metrics)

    def finished(self, job: Job, result: TrialResult) -> None:
        text = outcome(result.metrics)
        value = next((result.metrics[name] for name in OUTCOME if name in result.metrics), None)
        if value is not None and job.role != BASELINE and (self.best is None or value > self.best[0]):
            self.best = (value, f"{job.dataset} {job.name}: {text}")
        self._line("done", "green", job, text)

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
            self.left, self.looked = time_left(self.tally.estimate.remaining(self.tally.left)), now
        return separator + self.left if self.left and self.tally.left else ""

    def _line(self, word: str, style: str, job: Job, text: str) -> None:
        for kept in (self.epochs, self.losses):
            kept.pop(job.key, None)
        parts: list[str | tuple[str, str]] = [
            (f"{word:6}", style),
            f" {self.tally.ended}/{self.tally.total} ",
            (f"{job.dataset} {job.name}", "bold"),
            f"  {text}",
        ]
        # The live table says the time, so lines above it are kept short enough not to break.
        if not out.is_interactive or out.is_dumb_terminal:
            clock = duration(time.monotonic() - self.start) + self._left(", ")
            parts.append((f"  {job.key} ({clock})", "dim"))
        show(*parts)

    def render(self) -> RenderableType:
        """The live table: how far the sweep is, the best trial so far, and a line for each trial that runs."""
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
        best = [Text(f"best so far: {self.best[1]}")] if self.best else []
        if self.phase:
            return Group(head, *best, Text(f"{self.phase} ..."))
        jobs = list(tally.running.values())[: max(3, out.height - 7)]
        return Group(head, *best, self._running(jobs)) if jobs else Group(head, *best)

    def _running(self, jobs: Sequence[Job]) -> Table:
        """A line for each of these trials: epoch, loss with its course, and what of EPOCH any of them measures."""
        states = [self.epochs.get(job.key, (0, {})) for job in jobs]
        measured = {heading: of for heading, of in EPOCH.items() if any(of[0] in metrics for _, metrics in states)}
        has_course = out.width >= 60 and not out.options.ascii_only
        table = Table(box=None, pad_edge=False, show_edge=False)
        table.add_column("running", style="bold", overflow="fold")
        for heading in ("epoch", "loss", *(["course"] if has_course else []), *measured):
            table.add_column(heading, no_wrap=True, justify="left" if heading == "course" else "right")
        for job, (epoch, metrics) in zip(jobs, states, strict=True):
            whole = job.trial.epochs
            where = "evaluating" if epoch == whole else f"{epoch}/{whole}" if epoch else "starting"
            loss = f"{metrics[LOSS]:.4g}" if LOSS in metrics else "-"
            course = [sparkline(self.losses.get(job.key, []))] if has_course else []
            cells = (form.format(metrics[name]) if name in metrics else "-" for name, form in measured.values())
            table.add_row(Text(f"{job.dataset} {job.name}"), where, loss, *course, *cells)
        return table
