"""What a transform is, and the few helpers that all of them share."""

from collections.abc import Callable
from typing import ClassVar, Protocol

import torch
from torch import Tensor

Params = dict[str, Tensor]  # Named parameters of one transform; the first axis of each is the image.


class Transform(Protocol):
    """A random change of square images: `parameters` turns the uniform numbers of an image into angles, boxes or
    factors, and `apply` changes its pixels.

    `strength` in [0, 2] scales the ranges of a transform: 1 is the published one, 0 leaves every image as it is.
    Probabilities stay, and the draws do not depend on it, so trials of one seed stay paired. It is a float32 tensor of
    no dimensions on the device of the images, so that all arithmetic is in float32, on every device.
    """

    uniforms: ClassVar[int] = 1

    def draws(self, size: int) -> int:
        """How many uniform numbers an image of `size` x `size` pixels needs."""
        return self.uniforms

    def parameters(self, u: Tensor, strength: Tensor, size: int) -> Params:
        """Parameters of n images from their numbers `u` (n, draws) in [0, 1), at a strength ()."""
        ...

    def apply(self, images: Tensor, params: Params) -> Tensor:
        """(n, C, H, H) floats in [0, 1] to the same shape, dtype and device, in [0, 1]; `images` stay as they are."""
        ...


def between(u: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Numbers in [0, 1) to numbers in [low, high)."""
    return low + (high - low) * u


def power(bounds: tuple[float, float], strength: Tensor) -> tuple[Tensor, Tensor]:
    """A range of factors at some strength: their logarithms are scaled, so that none can reach 0."""
    return bounds[0] ** strength, bounds[1] ** strength


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """(n,) to (n, 1, 1, 1) in the dtype of the images `like`."""
    return values.to(like.dtype)[:, None, None, None]


def less(a: Tensor, b: Tensor) -> Tensor:
    """1 where a < b and 0 elsewhere, in the dtype of both; on a CPU several times quicker than to convert a bool."""
    return torch.lt(a, b, out=torch.empty(torch.broadcast_shapes(a.shape, b.shape), dtype=a.dtype, device=a.device))


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
