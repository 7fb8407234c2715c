"""The worker: one trial as a Ray Tune trainable. A `step` is one epoch, the last one evaluates; see `contract`."""

import os
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from ray import tune

from runner.events import FailureKind, TrialResult
from runner.execution import nodes
from runner.execution.contract import REPORT, REQUEST, Problem, StepReport, TrialRequest
from runner.machine.resources import describe
from sweeps.collapse import Verdict

if TYPE_CHECKING:
    from cplearn.training import TrialTraining
    from runner.execution.ranks import Team

TrainedEpochs = list[tuple[int, int, dict[str, float]]]  # As `runner.events.History`.

# A node may lack torch, which is noticed before anything is imported that needs it.


class TrialTrainable(tune.Trainable):
    """Trains the trial of the `TrialRequest` in its configuration, and makes a `StepReport` of each step.

    It goes on from the trial's checkpoint, if there is one; so a trial whose worker was lost is simply made anew. What
    a trial raises becomes a `Problem`: only what is raised here, lost processes and lack of memory, is tried again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.request: TrialRequest = config[REQUEST]
        self.report = StepReport()
        self.history: TrainedEpochs = []
        self._guarded(self._prepare)

    def _prepare(self) -> None:
        nodes.check(self.request.driver)
        from runner.durability.checkpoints import Checkpoints
        from runner.execution import ranks

        self.device = ranks.prepare(self.request)
        self.training = self._make()
        place = self.request.options.checkpoints
        self.checkpoints = Checkpoints(place) if place else None
        self.saved, self.write_failed = time.monotonic(), False
        if self.checkpoints and self.training.epochs:
            self.report.notes += filter(None, [self.checkpoints.restore(self.request.key, self._go_on)])

    def _go_on(self, state: dict[str, Any]) -> None:
        """Take up a state; raises Unusable, with a fresh training, where that fails whatever the state holds."""
        from runner.durability.checkpoints import Unusable

        try:
            self.history = TypeAdapter(TrainedEpochs).validate_python(state["history"])
            self.training.load_state_dict(state)
            # A copy, because the epoch of the first step is reported as metrics.
            self.report.history = list(self.history)
        except Exception as error:
            if _kind(error) != "exception":
                raise
            self.cleanup()
            self.training, self.history = self._make(), []
            raise Unusable(f"it is of other code ({type(error).__name__})") from None

    def _make(self) -> "TrialTraining | Team":
        from cplearn.distributed import Ranks
        from runner.execution.ranks import Team, build

        alone = self.request.options.resources.processes == 1
        return build(self.request, self.device, Ranks()) if alone else Team(self.request, self.device)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another trial in the same process, which has torch and the data in memory already."""
        import torch

        try:
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
        except RuntimeError:
            # Some exceptions leave a GPU unusable for the rest of the process. Tune counts the worker as lost and
            # starts the trial in another.
            os._exit(1)
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """End the other processes of the trial, if it has any."""
        # Not there, if it could not even be made.
        training = self.__dict__.pop("training", None)
        if hasattr(training, "close"):
            training.close()

    def step(self) -> dict[str, Any]:
        if not self.report.problem:
            self._guarded(self._advance)
        report, self.report = self.report, StepReport()
        # The driver tells the two apart by the name in the traceback, which shows the line that raises.
        if report.problem and report.problem.kind == "lost":
            raise RuntimeError(report.problem.text)
        if report.problem and report.problem.kind == "memory":
            raise MemoryError(report.problem.text)  # For another worker, as what else filled the memory may be gone.
        return {REPORT: report, "done": bool(report.result or report.problem)}

    def _advance(self) -> None:
        if self.training.finished or self._verdict():
            self._evaluate()
        else:
            self.report.metrics = self.training.train_epoch()
            if self.report.metrics:
                self.history.append((self.training.epoch, int(time.time() * 1000), self.report.metrics))
            self._checkpoint()
        self.report.epoch = self.training.epoch

    def _verdict(self) -> Verdict | None:
        """Why the trial stops after the epochs that it has; a trial that goes on from a checkpoint knows them all."""
        rule = self.request.stop_rule
        return rule.verdict([(epoch, metrics) for epoch, _, metrics in self.history]) if rule else None

    def _checkpoint(self) -> None:
        """Write a checkpoint if one is due; after the last epoch one always is, so that no training can be lost."""
        if self.checkpoints is None:
            return
        due = self.training.finished or self.training.epoch in self.request.rungs or self._verdict()
        if not due and time.monotonic() - self.saved < self.request.options.checkpoint_every:
            return
        try:
            self.checkpoints.save(self.request.key, {**self.training.state_dict(), "history": self.history})
        except OSError as error:
            if not self.write_failed:
                why = error.strerror or " ".join(str(error).split())
                self.report.notes.append(
                    f"the checkpoint of epoch {self.training.epoch} could not be written ({why}); training goes on, "
                    "and an older checkpoint stays, if there is one"
                )
            self.write_failed = True
        self.saved = time.monotonic()

    def _evaluate(self) -> None:
        outcome = self.training.evaluate()
        if outcome.failure is not None:
            self.report.problem = Problem("diverged", outcome.failure)
            return
        files = {}
        # Nothing is made of the model of a stopped trial.
        if self.training.finished:
            with tempfile.TemporaryDirectory() as folder:
                self.training.save(Path(folder), outcome)
                paths = [path for path in Path(folder).rglob("*") if path.is_file()]
                files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        else:
            self.report.verdict = self._verdict()
        tags = describe(self.device, self.request.options.resources.processes)
        if self.request.driver:
            tags = {**tags, "node": nodes.name_of(nodes.node_id())}
        self.report.result = TrialResult(outcome.metrics, files, tags)

    def _guarded(self, call: Callable[[], None]) -> None:
        """Call something; an exception becomes the problem of the report."""
        try:
            call()
        except Exception as error:
            # An exception of another process of the trial comes wrapped.
            cause = getattr(error, "cause", error)
            if isinstance(cause, nodes.Unfit):
                problem = Problem("unfit", *cause.args)
            else:
                problem = Problem(_kind(error), "".join(traceback.format_exception(error)))
            self.report = StepReport(problem=problem, notes=self.report.notes)


def _kind(error: Exception) -> FailureKind:
    import torch

    from runner.execution.ranks import ProcessLost

    if isinstance(error, ProcessLost):
        return "lost"
    # On the CPU, torch reports a lack of memory as a plain RuntimeError.
    lacking = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return "memory" if lacking else "exception"
