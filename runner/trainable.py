"""A pack of trials as a Ray Tune trainable: one `step` is one epoch, the last one evaluates."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from runner import hardware

if TYPE_CHECKING:
    from cplearn.distributed import Ranks
    from cplearn.training import Pack
    from runner.ranks import Team


def build(config: dict[str, Any], device: str, ranks: Ranks) -> Pack:
    """The pack of a trainable's `config`, or the part of it that one of several processes trains."""
    import cplearn.data
    from cplearn.config import Trial
    from cplearn.training import Pack

    trials = [Trial.read(settings) for settings in config["members"]]
    root = Path(config["data_root"]) if config["data_root"] else None
    dataset = cplearn.data.load(**trials[0].data_request(), root=root)
    return Pack(trials, dataset, device, compile=config["compile"], data_root=root, ranks=ranks)


class PackTrainable(tune.Trainable):
    """Trains the pack in `config`: `members` (settings of each trial), `data_root`, `cpus` and `gpus` of a process,
    `ranks` (number of processes) and `compile`.

    Every result has `epoch` and `members` (index to the epoch's metrics). The last has `outcomes` instead: for each
    member its final metrics, the reason of its failure or None, and its files as bytes by relative path. They travel
    in the result because a cluster's nodes need not share a disk; the driver takes them out at once.
    """

    def setup(self, config: dict[str, Any]) -> None:
        import torch

        from cplearn.distributed import Ranks
        from runner.ranks import Team

        # Without a limit, each of several workers on a machine starts a thread for every core.
        torch.set_num_threads(max(1, int(config["cpus"])))
        self.device = "cuda" if config["gpus"] > 0 and torch.cuda.is_available() else "cpu"
        several = config["ranks"] > 1
        self.training: Pack | Team = (
            Team(build, config, self.device) if several else build(config, self.device, Ranks())
        )

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another pack in the same process, which has torch and the data in memory already."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """End the other processes of the pack, if it has any."""
        from runner.ranks import Team

        if isinstance(self.training, Team):
            self.training.close()

    def step(self) -> dict[str, Any]:
        if not self.training.finished:
            alive = {str(k): metrics for k, metrics in self.training.train_epoch()}
            return {"epoch": self.training.epoch, "members": alive, "hardware": hardware.describe(self.device)}
        outcomes = []
        for k, outcome in enumerate(self.training.evaluate()):
            files: dict[str, bytes] = {}
            if outcome.failure is None:
                with tempfile.TemporaryDirectory() as folder:
                    self.training.save_member(k, Path(folder), outcome)
                    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
                    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
            outcomes.append({"metrics": outcome.metrics, "failure": outcome.failure, "files": files})
        return {
            "epoch": self.training.epoch,
            "outcomes": outcomes,
            "hardware": hardware.describe(self.device),
            "done": True,
        }
