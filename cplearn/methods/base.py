"""What every method offers: a loss for training, and embeddings and codes for evaluation, of K members at once."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Method(nn.Module, ABC):
    """A projector and a loss on top of K backbones.

    Subclasses are built as `Method(settings, features, batch_size, generators)`: one settings object and one CPU
    generator a member (for frozen random parts; the trainer draws the weights), backbone features F, images a step.
    """

    n_codes: int = 0

    @abstractmethod
    def forward(self, features: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """features: (K, V, n, F), V views of n images. Returns the losses (K,) and named scalars to log, each (K,)."""

    @abstractmethod
    def embed(self, features: Tensor) -> Tensor | None:
        """features: (K, n, F). The embeddings (K, n, f), or None if the method has no projector."""

    def codes(self, embeddings: Tensor) -> Tensor | None:
        """embeddings: (K, n, f). The index of each image's code (K, n), or None if the method has no codes."""
        return None

    def member_scalars(self, name: str, values: list[float]) -> None:
        """Keep one number a member as a buffer of shape (K,); it follows the model's device and precision."""
        self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)
