"""Transforms of pixel values: colour jitter, grayscale, solarisation, intensity, noise.

What needs colours (saturation, hue, grayscale) leaves images of one channel as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cplearn.augment.transform import Params, between, change_chosen, per_image, power, uniform

_BRIGHTNESS, _CONTRAST, _SATURATION = range(3)


@dataclass(frozen=True)
class ColourJitter:
    """With probability `p`, brightness, contrast, saturation and hue change, in an order drawn for each image.

    As in torchvision: factors are uniform in [max(0, 1 - range), 1 + range], the hue moves by up to `hue` of a full
    turn either way, and all 24 orders are equally likely (torchvision draws one for each call).

    Strength s multiplies the four ranges (the hue's ends at half a turn).
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    p: float = 0.8

    def sample(self, n: int, size: int, generator: torch.Generator, strength: float) -> Params:  # noqa: ARG002
        """`chosen` (n,) bool; `factors` (n, 3) of brightness, contrast, saturation; `hue` (n,) in turns.

        `order` (n, 3) lists the three blends (0 brightness, 1 contrast, 2 saturation) in the order in which they are
        done; the hue moves before the blend at position `hue_slot` (n,), or after the last if it is 3.
        """
        u = uniform(n, 9, generator)
        ranges = [strength * half for half in (self.brightness, self.contrast, self.saturation)]
        factors = [between(u[:, k + 1], max(0.0, 1 - half), 1 + half) for k, half in enumerate(ranges)]
        return {
            "chosen": u[:, 0] < self.p,
            "factors": torch.stack(factors, 1),
            "hue": (2 * u[:, 4] - 1) * min(strength * self.hue, 0.5),
            "order": u[:, 5:8].argsort(1),
            "hue_slot": (4 * u[:, 8]).long(),
        }

    def apply(self, images: Tensor, params: Params) -> Tensor:
        names = ("factors", "hue", "order", "hue_slot")
        return change_chosen(images, params["chosen"], _jitter, *(params[name] for name in names))


def _jitter(images: Tensor, factors: Tensor, hue: Tensor, order: Tensor, hue_slot: Tensor) -> Tensor:
    for slot in range(4):
        if images.shape[1] == 3:
            images = change_chosen(images, hue_slot == slot, _turn_hue, hue)
        if slot < 3:
            kind = order[:, slot]
            images = _blend(images, kind, factors.gather(1, kind[:, None])[:, 0])
    return images


def _blend(images: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """factor * image + (1 - factor) * base: black (brightness), mean luminance (contrast) or luminance (saturation)."""
    if images.shape[1] == 1:
        factor = torch.where(kind == _SATURATION, 1, factor)
    factor = per_image(factor, images)
    luminance = _luminance(images)
    mean = luminance.mean((2, 3), keepdim=True)
    contrast, saturation = (per_image(kind == k, images) for k in (_CONTRAST, _SATURATION))
    base = (1 - factor) * contrast * mean + (1 - factor) * saturation * luminance
    return torch.addcmul(base, images, factor).clamp_(0, 1)


def _turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """RGB images with the hue of HSV moved by `turns` (n,), in closed form."""
    red, green, blue = images.split(1, 1)
    # Two exchanges sort the channels; which of them happened tells the sextant of the colour circle.
    upper, lower = torch.maximum(green, blue), torch.minimum(green, blue)
    high, middle = torch.maximum(red, upper), torch.minimum(red, upper)
    low = torch.minimum(middle, lower)
    spread = high - low
    blue_side, not_red = (green < blue).to(images.dtype), (red < upper).to(images.dtype)
    sextant = not_red * (12 * blue_side - 2) - 6 * blue_side
    # Grey pixels have spread 0 and any hue.
    hue = (sextant + (middle - lower) / spread.clamp_min(1e-12)).abs()
    hue = hue + 6 * per_image(turns, images)
    hue = hue - 6 * (hue / 6).floor()
    # How far each channel stands between low and high, around the circle.
    channels = [(hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs()]
    return torch.addcmul(low, torch.cat(channels, 1).clamp_(0, 1), spread)


def _luminance(images: Tensor) -> Tensor:
    """(n, 1, H, W) with torchvision's weights; of one channel, itself."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    return (0.2989 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)


@dataclass(frozen=True)
class Grayscale:
    """With probability `p`, all channels become the luminance; strength s < 1 goes that part of the way."""

    p: float = 0.2

    def sample(self, n: int, size: int, generator: torch.Generator, strength: float) -> Params:  # noqa: ARG002
        """`chosen` (n,) bool and `amount` (n,) in [0, 1]."""
        chosen = uniform(n, 1, generator)[:, 0] < self.p
        return {"chosen": chosen, "amount": torch.full((n,), min(strength, 1.0), device=chosen.device)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        if images.shape[1] == 1:
            return images
        return change_chosen(images, params["chosen"], _fade, params["amount"])


def _fade(images: Tensor, amount: Tensor) -> Tensor:
    return images.lerp(_luminance(images), per_image(amount, images)).clamp_(0, 1)


@dataclass(frozen=True)
class Solarise:
    """With probability `p`, values above `threshold` are inverted.

    The default of 0.5 splits bytes as torchvision's 128 does. Strength s moves the threshold to
    1 - s * (1 - `threshold`).
    """

    threshold: float = 0.5
    p: float = 0.2

    def sample(self, n: int, size: int, generator: torch.Generator, strength: float) -> Params:  # noqa: ARG002
        """`chosen` (n,) bool and `threshold` (n,)."""
        chosen = uniform(n, 1, generator)[:, 0] < self.p
        threshold = max(0.0, 1 - strength * (1 - self.threshold))
        return {"chosen": chosen, "threshold": torch.full((n,), threshold, device=chosen.device)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        return change_chosen(images, params["chosen"], _invert_above, params["threshold"])


def _invert_above(images: Tensor, threshold: Tensor) -> Tensor:
    return torch.where(images > per_image(threshold, images), 1 - images, images)


@dataclass(frozen=True)
class Intensity:
    """gain * x ** gamma, clipped; both uniform in their ranges. Strength s uses the ranges to the power of s."""

    gain: tuple[float, float] = (0.7, 1.3)
    gamma: tuple[float, float] = (1.0, 1.0)

    def sample(self, n: int, size: int, generator: torch.Generator, strength: float) -> Params:  # noqa: ARG002
        """`gain` and `gamma` (n,)."""
        u = uniform(n, 2, generator)
        return {
            "gain": between(u[:, 0], *power(self.gain, strength)),
            "gamma": between(u[:, 1], *power(self.gamma, strength)),
        }

    def apply(self, images: Tensor, params: Params) -> Tensor:
        gain, gamma = per_image(params["gain"], images), per_image(params["gamma"], images)
        return (gain * images**gamma).clamp_(0, 1)


@dataclass(frozen=True)
class GaussianNoise:
    """Normal noise, the same in all channels, clipped; its standard deviation is uniform in `std`.

    Strength s uses the range s * `std`.
    """

    std: tuple[float, float] = (0.05, 0.1)

    def sample(self, n: int, size: int, generator: torch.Generator, strength: float) -> Params:
        """`noise` (n, 1, size, size), to be added."""
        std = between(uniform(n, 1, generator), *self.std) * strength
        noise = torch.randn(n, 1, size, size, generator=generator, device=generator.device)
        return {"noise": noise * std[..., None, None]}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        return (images + params["noise"].to(images.dtype)).clamp_(0, 1)
