"""One trial in training, as a pack of one; `cplearn.training.TrialTraining` takes this place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset
from cplearn.training import Outcome, Pack


class LoneTrial:
    """A `Pack` with a single member, in words of one trial."""

    def __init__(self, trial: TrialSettings, dataset: Dataset, device: str, **options: Any) -> None:
        self.pack = Pack([trial], dataset, device, **options)

    def __getattr__(self, name: str) -> Any:
        if name == "pack":  # not there yet; looking it up in itself would never end
            raise AttributeError(name)
        return getattr(self.pack, name)

    def train_epoch(self) -> dict[str, float]:
        alive = self.pack.train_epoch()
        return alive[0][1] if alive else {}

    def evaluate(self) -> Outcome:
        return self.pack.evaluate()[0]

    def save(self, folder: Path, outcome: Outcome) -> None:
        self.pack.save_member(0, folder, outcome)

    def state_dict(self) -> dict[str, Any]:
        return self.pack.member_state(0)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pack.load_member_states([state])
