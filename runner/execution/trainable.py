"""The worker: one trial as a Ray Tune trainable. A `step` is one epoch, the last one evaluates; see `contract`."""

from __future__ import annotations

import os
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ray import tune

from runner.execution import nodes
from runner.execution.contract import REPORT, REQUEST, History, Problem, StepReport, TrialRequest, TrialResult
from runner.faults import FailureKind
from runner.machine import hardware

if TYPE_CHECKING:
    from cplearn.distributed import Ranks
    from cplearn.training import TrialTraining
    from runner.execution.ranks import Team

T = TypeVar("T")


def build(request: TrialRequest, device: str, ranks: Ranks) -> TrialTraining:
    """The training that a request asks for, or the part of it that one of several processes has.

    Raises Unfit where this node has not the driver's code, libraries or data.
    """
    nodes.check(request.driver)
    import cplearn.data
    from cplearn.config.trial import TrialSettings
    from cplearn.errors import InputError
    from cplearn.evaluate import protocol
    from cplearn.training import TrialTraining

    trial = TrialSettings.read(dict(request.settings))
    root = nodes.data_root(request.data_root, remote=bool(request.driver))
    try:
        dataset = cplearn.data.load(**trial.data_request(), root=root)
        others = protocol.load_transfer(trial, dataset.image_size, root)
    except InputError as error:
        raise nodes.Unfit(nodes.node_id(), str(error)) from None
    nodes.check_data(request.data, [dataset, *others])
    return TrialTraining(trial, dataset, device, compile=request.compile, data_root=root, ranks=ranks)


class TrialTrainable(tune.Trainable):
    """Trains the trial of the `TrialRequest` in its configuration, and makes a `StepReport` of each step.

    It goes on from the trial's checkpoint, if there is one; so Tune restarts a trial whose worker was lost by simply
    making a new one. What a trial raises becomes a `Problem`: only what is raised here, lost processes and lack of
    memory, does Tune try again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.request = TrialRequest.from_dict(config[REQUEST])
        self.problem: Problem | None = None
        self.notes: list[str] = []
        self._guarded(self._prepare)

    def _prepare(self) -> None:
        # Before torch is imported, which may be what is lacking.
        nodes.check(self.request.driver)
        import torch

        from runner.durability.checkpoints import Checkpoints

        # Without a limit, each of several workers on a machine starts a thread for every core.
        torch.set_num_threads(max(1, int(self.request.cpus)))
        self.device = "cuda" if self.request.gpus > 0 and torch.cuda.is_available() else "cpu"
        self.training: TrialTraining | Team = self._make()
        self.history: History = []
        self.checkpoints = Checkpoints(self.request.checkpoints) if self.request.checkpoints else None
        self.saved, self.write_failed, self.reported = time.monotonic(), False, False
        if self.checkpoints and self.training.epochs:
            state, notes = self.checkpoints.restore(self.request.key)
            self.notes += notes
            if state is not None:
                self._go_on(state)

    def _go_on(self, state: dict[str, Any]) -> None:
        try:
            self.training.load_state_dict(state)
            self.history = state["history"]
        except (RuntimeError, KeyError, ValueError) as error:
            self.notes.append(f"a checkpoint of other code ({type(error).__name__}), so training starts anew")
            self.cleanup()
            self.training = self._make()

    def _make(self) -> TrialTraining | Team:
        from cplearn.distributed import Ranks
        from runner.execution.ranks import Team

        if self.request.ranks > 1:
            return Team(build, self.request, self.device)
        return build(self.request, self.device, Ranks())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another trial in the same process, which has torch and the data in memory already."""
        if self.problem and not _usable():
            # Tune counts the worker as lost and starts the trial in another.
            os._exit(1)
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """End the other processes of the trial, if it has any."""
        from runner.execution.ranks import Team

        # Not there, if it could not even be made.
        training = self.__dict__.pop("training", None)
        if isinstance(training, Team):
            training.close()

    def step(self) -> dict[str, Any]:
        report = None if self.problem else self._guarded(self._advance)
        if self.problem:
            if self.problem.kind == "lost":
                raise RuntimeError(self.problem.text)
            if self.problem.kind == "memory":
                # In another worker, as what else filled the memory may be gone then.
                raise MemoryError(self.problem.text)
            report = StepReport(problem=self.problem)
        assert report is not None
        report.notes, self.notes = self.notes, []
        return {REPORT: report, "done": bool(report.result or report.problem)}

    def _advance(self) -> StepReport:
        # A copy, because the epoch of this step is reported as metrics.
        report = StepReport(history=[] if self.reported else list(self.history))
        self.reported = True
        if not self.training.finished:
            report.metrics = self.training.train_epoch()
            if report.metrics:
                self.history.append((self.training.epoch, int(time.time() * 1000), report.metrics))
            self._checkpoint()
        else:
            report.result = self._evaluate()
        report.epoch = self.training.epoch
        report.hardware = dict(hardware.describe(self.device, self.request.ranks))
        if self.request.driver:
            report.hardware["node"] = nodes.node_name()
        return report

    def _checkpoint(self) -> None:
        """Write a checkpoint if one is due; after the last epoch one always is, so that no training can be lost."""
        if self.checkpoints is None:
            return
        due = self.training.finished or self.training.epoch in self.request.rungs
        if not due and time.monotonic() - self.saved < self.request.checkpoint_every:
            return
        try:
            self.checkpoints.save(self.request.key, {**self.training.state_dict(), "history": self.history})
        except OSError as error:
            if not self.write_failed:
                why = error.strerror or " ".join(str(error).split())
                self.notes.append(
                    f"the checkpoint of epoch {self.training.epoch} could not be written ({why}); training goes on, "
                    "and an older checkpoint stays, if there is one"
                )
            self.write_failed = True
        self.saved = time.monotonic()

    def _evaluate(self) -> TrialResult:
        outcome = self.training.evaluate()
        files: dict[str, bytes] = {}
        if outcome.failure is None:
            with tempfile.TemporaryDirectory() as folder:
                self.training.save(Path(folder), outcome)
                paths = [path for path in Path(folder).rglob("*") if path.is_file()]
                files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        return TrialResult(outcome.metrics, outcome.failure, files)

    def _guarded(self, call: Callable[[], T]) -> T | None:
        """What `call` returns; an exception becomes `problem`."""
        try:
            return call()
        except Exception as error:
            # An exception of another process of the trial comes wrapped.
            cause = getattr(error, "cause", error)
            if isinstance(cause, nodes.Unfit):
                self.problem = Problem("unfit", cause.why, cause.node)
            else:
                self.problem = Problem(_kind(error), "".join(traceback.format_exception(error)))
            return None


def _kind(error: Exception) -> FailureKind:
    import torch

    from runner.execution.ranks import ProcessLost

    if isinstance(error, ProcessLost):
        return "lost"
    # On the CPU, torch reports a lack of memory as a plain RuntimeError.
    lacking = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return "memory" if lacking else "exception"


def _usable() -> bool:
    """Whether the device still works; some exceptions leave a GPU unusable for the rest of the process."""
    import torch

    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
