"""The baselines below every method: a backbone that is never trained (random weights, or raw pixels)."""

from typing import ClassVar

from torch import Tensor

from cplearn.config.base import MethodSettings, setting
from cplearn.methods import base


class Settings(MethodSettings):
    trains: ClassVar[bool] = False

    name: str = setting("untrained", "No training: what the backbone gives with its initial weights.")


class Method(base.Method[Settings]):
    """No projector, no loss and no codes."""

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        super().__init__(settings, 0)

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        raise TypeError("method 'untrained' has no loss")

    def embed(self, features: Tensor) -> None:
        return None
