"""What a transform is, and the few helpers that all of them share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Params = dict[str, Tensor]
"""Named parameters of one transform; the first axis of each is the image."""


class Transform(Protocol):
    """A random change of square images in [0, 1].

    `strength` in [0, 2] scales the ranges of a transform: 1 is the published one, 0 leaves every image as it is.
    Probabilities stay, and the same random numbers are drawn whatever the strength, so trials of one seed stay paired.
    """

    def sample(self, n: int, size: int, generator: torch.Generator, strength: float) -> Params:
        """Parameters of `n` images of `size` x `size` pixels, on the generator's device, drawn in float32."""
        ...

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """(n, C, H, W) floats in [0, 1] to the same shape, dtype and device, in [0, 1]; `images` stays as it is."""
        ...


def uniform(n: int, k: int, generator: torch.Generator) -> Tensor:
    """(n, k) numbers in [0, 1)."""
    return torch.rand(n, k, generator=generator, device=generator.device)


def between(u: Tensor, low: float, high: float) -> Tensor:
    """Numbers in [0, 1) to numbers in [low, high)."""
    return low + (high - low) * u


def power(bounds: tuple[float, float], strength: float) -> tuple[float, float]:
    """A range of factors around (or up to) 1 at some strength: its logarithm is scaled, so no bound can reach 0."""
    return bounds[0] ** strength, bounds[1] ** strength


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """(n,) to (n, 1, 1, 1) in the dtype of the images `like`."""
    return values.to(like.dtype)[:, None, None, None]


def change_chosen(images: Tensor, chosen: Tensor, change: Callable[..., Tensor], *params: Tensor) -> Tensor:
    """`change(images, *params)` where `chosen` (n,) is true, the image itself elsewhere.

    On a CPU only the chosen images are computed. On an accelerator all are, because the host would have to wait for
    their number. Both give the same values.
    """
    if images.device.type != "cpu":
        return torch.where(chosen[:, None, None, None], change(images, *params), images)
    rows = chosen.nonzero().squeeze(1)
    changed = change(images.index_select(0, rows), *(values.index_select(0, rows) for values in params))
    return images.index_copy(0, rows, changed)
