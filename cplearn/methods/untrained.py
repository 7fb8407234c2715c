"""The baselines below every method: a backbone that is never trained (random weights, or raw pixels)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from cplearn.config import base as config
from cplearn.methods import base


class Settings(config.MethodSettings):
    trains: ClassVar[bool] = False

    name: str = Field("untrained", description="No training: what the backbone gives with its initial weights.")


class Method(base.Method):
    def __init__(
        self,
        settings: Sequence[Settings],
        features: int,
        batch_size: int,
        generators: Sequence[torch.Generator],
        classes: int,
    ) -> None:
        super().__init__()

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """An untrained backbone has no loss: raises TypeError."""
        raise TypeError("method 'untrained' has no loss")

    def embed(self, features: Tensor) -> None:
        return None
