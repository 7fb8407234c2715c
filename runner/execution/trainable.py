"""A pack of trials as a Ray Tune trainable: one `step` is one epoch, the last one evaluates."""

from __future__ import annotations

import os
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from runner.execution import nodes
from runner.faults import Kind
from runner.machine import hardware

if TYPE_CHECKING:
    from cplearn.distributed import Ranks
    from cplearn.training import Pack
    from runner.execution.ranks import Team


def build(config: dict[str, Any], device: str, ranks: Ranks) -> Pack:
    """The pack of a trainable's `config`, or the part of it that one of several processes trains.

    Raises Unfit where this node has not the driver's code, libraries or data.
    """
    nodes.check(config["driver"])
    import cplearn.data
    from cplearn.config.trial import TrialSettings
    from cplearn.errors import InputError
    from cplearn.evaluate import protocol
    from cplearn.training import Pack

    trials = [TrialSettings.read(settings) for settings in config["members"]]
    root = nodes.data_root(config["data_root"], remote=bool(config["driver"]))
    try:
        dataset = cplearn.data.load(**trials[0].data_request(), root=root)
        others = protocol.load_transfer(trials[0], dataset.image_size, root)
    except InputError as error:
        raise nodes.Unfit(nodes.own_id(), str(error)) from None
    nodes.check_data(config["data"], [dataset, *others])
    return Pack(trials, dataset, device, compile=config["compile"], data_root=root, ranks=ranks)


class PackTrainable(tune.Trainable):
    """Trains the pack in `config`: `members` (settings of each trial), `keys`, `data_root`, `cpus` and `gpus` of a
    process, `ranks` (number of processes), `driver` (what a node must have, see `nodes`), `data` (name and
    fingerprint of each data set that a member uses), `compile`, `checkpoints` (where they lie, or None),
    `checkpoint_every` (seconds between them; 0: after every epoch) and `rungs` (epochs after which there is one in any
    case, as the pack may be stopped there).

    It goes on from the pack's checkpoints, if there are any; so Tune restarts a pack whose worker was lost by simply
    making a new one.

    Every result has `epoch` and `members` (index to the epoch's metrics). The last has `outcomes` instead: for each
    member its final metrics, the reason of its failure or None, and its files as bytes by relative path. They travel
    in the result because a cluster's nodes need not share a disk; the driver takes them out at once. A pack that raises
    has `problem` in its last result: kind and traceback, or of an unfit node its id and the reason. Any result can have
    `notes`, sentences for the user, and the first one `histories`: for each member (epoch, time in ms, metrics) of what
    it has trained before.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.problem: dict[str, str] | None = None
        self.notes: list[str] = []
        self._guarded(lambda: self._prepare(config))

    def _prepare(self, config: dict[str, Any]) -> None:
        # Before torch is imported, which may be what is lacking.
        nodes.check(config["driver"])
        import torch

        from runner.durability.checkpoints import Checkpoints

        # Without a limit, each of several workers on a machine starts a thread for every core.
        torch.set_num_threads(max(1, int(config["cpus"])))
        self.device = "cuda" if config["gpus"] > 0 and torch.cuda.is_available() else "cpu"
        self.training: Pack | Team = self._make(config)
        self.keys: list[str] = config["keys"]
        self.histories: list[list[tuple[int, int, dict[str, float]]]] = [[] for _ in self.keys]
        self.checkpoints = Checkpoints(config["checkpoints"]) if config["checkpoints"] else None
        self.every: float = config["checkpoint_every"]
        self.rungs: list[int] = config["rungs"]
        self.saved, self.warned, self.told = time.monotonic(), False, False
        if self.checkpoints and self.training.epochs:
            restored = self.checkpoints.restore(self.keys)
            self.notes += restored.notes
            if restored.states:
                try:
                    self.training.load_member_states(restored.states)
                    self.histories = [state["history"] for state in restored.states]
                except (RuntimeError, KeyError, ValueError) as error:
                    self.notes.append(f"a checkpoint of other code ({type(error).__name__}), so training starts anew")
                    self.cleanup()
                    self.training = self._make(config)

    def _make(self, config: dict[str, Any]) -> Pack | Team:
        from cplearn.distributed import Ranks
        from runner.execution.ranks import Team

        return Team(build, config, self.device) if config["ranks"] > 1 else build(config, self.device, Ranks())

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another pack in the same process, which has torch and the data in memory already."""
        if self.problem and not _usable():
            # Tune counts the worker as lost and starts the pack in another.
            os._exit(1)
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """End the other processes of the pack, if it has any."""
        from runner.execution.ranks import Team

        # Not there, if it could not even be made.
        training = self.__dict__.pop("training", None)
        if isinstance(training, Team):
            training.close()

    def step(self) -> dict[str, Any]:
        result = self._guarded(self._advance) if self.problem is None else None
        if self.problem:
            if self.problem["kind"] == "lost":
                # As if this worker had been lost: Tune starts the pack again, up to the limit of retries.
                raise RuntimeError(self.problem["text"])
            if self.problem["kind"] == "memory" and len(self.get_config()["members"]) == 1:
                # Tune ends this worker and tries again in another, when what else filled the memory may be gone.
                raise MemoryError(self.problem["text"])
            result = {"problem": self.problem, "done": True}
        assert result is not None
        if self.notes:
            result["notes"], self.notes = self.notes, []
        return result

    def _advance(self) -> dict[str, Any]:
        before = {} if self.told else {"histories": self.histories}
        self.told = True
        if not self.training.finished:
            alive = self.training.train_epoch()
            result = {
                "epoch": self.training.epoch,
                "members": {str(k): metrics for k, metrics in alive},
                # A copy, because this epoch is told under `members`.
                **{name: [list(history) for history in histories] for name, histories in before.items()},
            }
            now = int(time.time() * 1000)
            for k, metrics in alive:
                self.histories[k].append((self.training.epoch, now, metrics))
            self._checkpoint()
        else:
            result = {"epoch": self.training.epoch, "outcomes": self._outcomes(), "done": True, **before}
        found = hardware.describe(self.device, self.get_config()["ranks"])
        return result | {"hardware": found | ({"node": nodes.own_name()} if self.get_config()["driver"] else {})}

    def _checkpoint(self) -> None:
        """Write a checkpoint if one is due; after the last epoch one always is, so that no training can be lost."""
        if self.checkpoints is None:
            return
        due = self.training.finished or self.training.epoch in self.rungs
        if not due and time.monotonic() - self.saved < self.every:
            return
        states = {
            key: {**self.training.member_state(k), "history": self.histories[k]} for k, key in enumerate(self.keys)
        }
        try:
            self.checkpoints.save(states)
        except OSError as error:
            if not self.warned:
                why = error.strerror or " ".join(str(error).split())
                self.notes.append(
                    f"the checkpoint of epoch {self.training.epoch} could not be written ({why}); training goes on, "
                    "and an older checkpoint stays, if there is one"
                )
            self.warned = True
        self.saved = time.monotonic()

    def _outcomes(self) -> list[dict[str, Any]]:
        outcomes = []
        for k, outcome in enumerate(self.training.evaluate()):
            files: dict[str, bytes] = {}
            if outcome.failure is None:
                with tempfile.TemporaryDirectory() as folder:
                    self.training.save_member(k, Path(folder), outcome)
                    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
                    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
            outcomes.append({"metrics": outcome.metrics, "failure": outcome.failure, "files": files})
        return outcomes

    def _guarded(self, call: Callable[[], Any]) -> Any:
        """What `call` returns; an exception becomes `problem`, so that Tune retries only what it may: lost workers."""
        try:
            return call()
        except Exception as error:
            # Of another process of the pack it comes wrapped.
            cause = getattr(error, "cause", error)
            if isinstance(cause, nodes.Unfit):
                self.problem = {"kind": "unfit", "text": cause.why, "node": cause.node}
                return None
            self.problem = {"kind": _kind(error), "text": "".join(traceback.format_exception(error))}
            return None


def _kind(error: Exception) -> Kind:
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
