"""A pack of trials as a Ray Tune trainable: one `step` is one epoch, the last one evaluates."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ray import tune

from runner import hardware


class PackTrainable(tune.Trainable):
    """Trains the pack in `config`: `members` (settings of each trial), `data_root`, `cpus`, `gpus` and
    `compile`.

    Every result has `epoch` and `members` (index to the epoch's metrics). The last has `outcomes` instead: for each
    member its final metrics, the reason of its failure or None, and its files as bytes by relative path. They travel
    in the result because a cluster's nodes need not share a disk; the driver takes them out at once.
    """

    def setup(self, config: dict[str, Any]) -> None:
        import torch

        import cplearn.data
        from cplearn.config import Trial
        from cplearn.training import Pack

        # Without a limit, each of several workers on a machine starts a thread for every core.
        torch.set_num_threads(max(1, int(config["cpus"])))
        self.device = "cuda" if config["gpus"] > 0 and torch.cuda.is_available() else "cpu"
        trials = [Trial.read(settings) for settings in config["members"]]
        root = Path(config["data_root"]) if config["data_root"] else None
        dataset = cplearn.data.load(**trials[0].data_request(), root=root)
        self.training = Pack(trials, dataset, self.device, compile=config["compile"], data_root=root)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another pack in the same process, which has torch and the data in memory already."""
        self.setup(new_config)
        return True

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
