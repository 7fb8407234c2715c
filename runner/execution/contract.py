"""The contract between driver, Ray Tune and worker: who sends what, when, and what happens on each fault.

The driver is the process of the command line; `execute` runs in it, and so does Tune's loop. A worker is a Ray actor
that trains one trial after the other; with several processes a trial it is the first of them (see `ranks`).

1. `execute` takes jobs, listeners, `ExecutionOptions` and a `Steering`. It connects to Ray, leaves out nodes that
   cannot train (`nodes`), and starts Tune.
2. Whenever a slot is free, Tune asks the `tune_callbacks.Dispatcher` for a trial. It sends the next job that the
   steering admits as a `TrialRequest` under `REQUEST` in Tune's configuration. There is no other way for a trial to
   start.
3. The worker (`trainable.TrialTrainable`) builds the trial from the request, and goes on from its checkpoint if there
   is one. Each `step` trains one epoch, or evaluates after the last one; or after the epoch at which the request's
   `StopRule` finds that the trial has collapsed.
4. After each step the worker sends a `StepReport` under `REPORT` in Tune's result. The first one has the history of the
   epochs that were trained before. The last one has either a `runner.events.TrialResult` or a `Problem`. A report is an
   object, not a dict: Tune would flatten a dict and keep its numbers for ever.
5. In the driver Tune first asks `tune_callbacks.TuneCallbacks` whether the trial stops here, then gives it the report,
   which it takes out of Tune's result to tell the listeners (`runner.events`).
6. The worker takes up the next request in the same process (`reset_config`), so that torch and data stay in memory.

| fault | who notices | what follows |
| :-- | :-- | :-- |
| the loss is no longer finite | worker: `Problem` "diverged" | the trial has failed |
| the trial raises | worker: `Problem` "exception" | the trial has failed; others go on |
| memory does not suffice | worker: it raises MemoryError; or Ray ends the worker | another worker tries again |
| a worker or node is lost | Tune | another worker tries again, from the last checkpoint |
| a process of a trial is lost | worker: it raises ProcessLost | another worker tries again, from the last checkpoint |
| a node lacks code, library or data | worker: `Problem` "unfit" | the node is left out, unfinished jobs start anew |
| the driver's own Ray dies | callbacks: no node is alive | Ray is started again, and unfinished jobs with it |
| the same failure `stop_after` times | callbacks | all trials end; `execute` returns the failure |
| a listener or the steering raises | callbacks | all trials end; `execute` raises the error |
| a checkpoint cannot be used | worker: a note | the one before is used, else training starts anew |
| a checkpoint cannot be written | worker: a note | training goes on; the checkpoint before stays |

"Tries again" means that the dispatcher hands the job out again, up to `retries` times; then it has failed as "lost" or
"memory". Tune itself, which would not do so for a worker that is lost while it starts, tries nothing again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from runner.events import FailureKind
from runner.machine.resources import Resources
from sweeps.collapse import StopRule, Verdict

if TYPE_CHECKING:
    from runner.events import History, TrialResult
    from runner.execution.tune_callbacks import Asha
    from runner.planning.plan import Job

REQUEST, REPORT = "request", "report"
"""The keys of a `TrialRequest` in the configuration of a Tune trial, and of a `StepReport` in a Tune result."""


@dataclass(frozen=True)
class ExecutionOptions:
    """How trials are run; none of it changes their numbers.

    `data_root` should be absolute, because workers do not run in the driver's directory. `checkpoints` is a folder or
    an address (see `durability.checkpoints`); `checkpoint_every` is the least seconds between two of a trial, 0 asks
    for one after every epoch. `compile` turns on `torch.compile`. A trial is tried again `retries` times after lost
    workers and lack of memory; the sweep stops after `stop_after` equal failures (0: never). `modules` are paths of
    packages and modules from outside, which workers are sent.
    """

    resources: Resources = Resources()  # noqa: RUF009 (it is frozen)
    data_root: str | None = None
    compile: bool = False
    checkpoints: str | None = None
    checkpoint_every: float = 60
    retries: int = 3
    stop_after: int = 3
    modules: tuple[str, ...] = ()


class Steering:
    """What the driver decides while trials run. This one lets all jobs run; a subclass overrides what it needs.

    `asha` stops jobs early; None lets all of them run to their end.
    """

    asha: Asha | None = None

    def admits(self, job: Job) -> bool:
        """Whether a waiting job may start now. A refused job is asked for again, as long as another one runs."""
        return True

    def next_job(self) -> Job | None:
        """A further job, asked for when a slot is free and no job waits; None if there is none at present."""
        return None

    def keep_alive(self) -> None:
        """Called every few seconds; an error ends the sweep."""


@dataclass(frozen=True)
class TrialRequest:
    """What the driver sends a worker: one trial, and how to run it."""

    key: str  # The job's key, which also names its checkpoints.
    settings: Mapping[str, Any]  # The trial's settings, `TrialSettings.canonical()`.
    data: Sequence[tuple[str, str]]
    """Name and fingerprint of each data set that the trial uses; the worker's must be the same."""
    code: Mapping[str, str]
    """The versions of the code from outside that the trial uses (`TrialSettings.code_from_outside`)."""
    options: ExecutionOptions  # With the number of GPUs settled.
    rungs: Sequence[int]  # Epochs that end with a checkpoint in any case, because the trial may be stopped there.
    stop_rule: StopRule | None  # When the worker itself stops the trial, and evaluates it as it stands; None: never.
    driver: Mapping[str, str]
    """The driver's code and libraries (`nodes.facts`), which a node must have too; empty on the driver's machine."""


@dataclass(frozen=True)
class Problem:
    """Why a trial ended without a result: in words, or its traceback; or, for an unfit `node`, what that node lacks."""

    kind: FailureKind | Literal["unfit"]
    text: str
    node: str = ""


@dataclass
class StepReport:
    """What a worker reports after each step."""

    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    """The metrics of the epoch; empty if none was trained in this step, or if the loss is no longer finite."""
    history: History = ()  # In the first report: the epochs before, which an earlier worker has trained.
    result: TrialResult | None = None
    verdict: Verdict | None = None
    """Why the trial was stopped before its last epoch, where the result is that of a stopped one."""
    problem: Problem | None = None
    notes: list[str] = field(default_factory=list)  # Sentences for the user.
