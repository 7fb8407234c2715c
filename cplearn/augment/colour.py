"""Transforms of pixel values: colour jitter, grayscale, solarisation, intensity, noise.

What needs colours (saturation, hue, grayscale) leaves images of one channel as they are.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cplearn.augment.transform import Params, Transform, between, change_chosen, less, per_image, power

_CONTRAST, _SATURATION = 1, 2


@dataclass(frozen=True)
class ColourJitter(Transform):
    """With probability `p`, brightness, contrast, saturation and hue change, in an order drawn for each image.

    As in torchvision: factors are uniform in [max(0, 1 - range), 1 + range], the hue moves by up to `hue` of a full
    turn either way, and all 24 orders are equally likely. Strength s multiplies the four
    ranges (the hue's ends at half a turn).
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    p: float = 0.8
    uniforms: ClassVar[int] = 9

    def parameters(self, u: Tensor, strength: Tensor, size: int) -> Params:
        """`chosen` (n,) bool; `factors` (n, 3) of brightness, contrast, saturation; `hue` (n,) in turns.

        `order` (n, 3) lists the three blends (0 brightness, 1 contrast, 2 saturation) in the order in which they are
        done; `before_hue` (n,) says how many of them, 0 to 3, come before the hue moves.
        """
        halves = [strength * half for half in (self.brightness, self.contrast, self.saturation)]
        factors = [between(u[:, k + 1], (1 - half).clamp_min(0), 1 + half) for k, half in enumerate(halves)]
        return {
            "chosen": u[:, 0] < self.p,
            "factors": torch.stack(factors, 1),
            "hue": (2 * u[:, 4] - 1) * (strength * self.hue).clamp_max(0.5),
            "order": u[:, 5:8].argsort(1),
            "before_hue": (4 * u[:, 8]).long(),
        }

    def apply(self, images: Tensor, params: Params) -> Tensor:
        # Three blends before the hue and three after; of each pair, one has factor 1 and so does nothing.
        order, factor = params["order"], params["factors"].gather(1, params["order"])
        if images.shape[1] == 1:
            factor = torch.where(order == _SATURATION, 1, factor)
        early = torch.arange(3, device=order.device) < params["before_hue"][:, None]
        factor = torch.cat([torch.where(early, factor, 1), torch.where(early, 1, factor)], 1)
        order = order.repeat(1, 2)
        parts = [factor, (1 - factor) * (order == _CONTRAST), (1 - factor) * (order == _SATURATION)]
        blends, turns = torch.stack(parts, 2).to(images.dtype), params["hue"].to(images.dtype)
        return change_chosen(images, params["chosen"], _jitter, blends, turns)


def _jitter(images: Tensor, blends: Tensor, turns: Tensor) -> Tensor:
    """Six blends of the image, its mean luminance and its luminance, clipped, with the change of hue in their middle.

    `blends` (n, 6, 3) are the weights of the three. Brightness blends with black, contrast with the mean luminance,
    saturation with the luminance.
    """
    for slot, weights in enumerate(blends[..., None, None, None].unbind(1)):
        if slot == 3 and images.shape[1] == 3:
            images = _turn_hue(images, turns)
        of_image, of_mean, of_luminance = weights.unbind(1)
        luminance = _luminance(images)
        base = (luminance * of_luminance).add_(luminance.mean((2, 3), keepdim=True) * of_mean)
        images = torch.addcmul(base, images, of_image).clamp_(0, 1)
    return images


def _turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """RGB images with the hue of HSV moved by `turns` (n,), in closed form."""
    red, green, blue = images.split(1, 1)
    # Two exchanges sort the channels; which of them happened tells the sextant of the colour circle.
    upper, lower = torch.maximum(green, blue), torch.minimum(green, blue)
    high, middle = torch.maximum(red, upper), torch.minimum(red, upper)
    spread = high - torch.minimum(middle, lower)
    bluish, not_red = less(green, blue), less(red, upper)
    sextant = (2 * bluish).sub_(1 / 3).mul_(not_red).sub_(bluish)
    # Grey pixels have no spread, and any hue will do.
    hue = torch.addcdiv(sextant, middle - lower, spread.clamp_min(1e-12), value=1 / 6).abs_()
    # A channel is highest up to 1/6 of a turn from its primary colour, lowest from 1/3 on, and linear in between.
    primaries = torch.arange(3, device=images.device)[:, None, None] / 3
    distance = hue + (per_image(turns, images) - primaries)
    distance = distance.sub_(distance.round()).abs_().clamp_(1 / 6, 1 / 3)
    return torch.addcmul(high + spread, distance, spread, value=-6)


def _luminance(images: Tensor) -> Tensor:
    """(n, 1, H, W) with torchvision's weights; of one channel, itself."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    return (0.2989 * red).add_(green, alpha=0.587).add_(blue, alpha=0.114)


@dataclass(frozen=True)
class Grayscale(Transform):
    """With probability `p`, all channels become the luminance; strength s < 1 goes that part of the way."""

    p: float = 0.2

    def parameters(self, u: Tensor, strength: Tensor, size: int) -> Params:
        """`chosen` (n,) bool and `amount` (), between 0 and 1."""
        return {"chosen": u[:, 0] < self.p, "amount": strength.clamp_max(1)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        if images.shape[1] == 1:
            return images
        amount = params["amount"].to(images.dtype)
        return change_chosen(images, params["chosen"], lambda x: x.lerp(_luminance(x), amount).clamp_(0, 1))


@dataclass(frozen=True)
class Solarise(Transform):
    """With probability `p`, values above `threshold` are inverted; 0.5 splits bytes as torchvision's 128 does.

    Strength s moves the threshold to 1 - s * (1 - `threshold`).
    """

    threshold: float = 0.5
    p: float = 0.2

    def parameters(self, u: Tensor, strength: Tensor, size: int) -> Params:
        """`chosen` (n,) bool and `threshold` ()."""
        return {"chosen": u[:, 0] < self.p, "threshold": (1 - strength * (1 - self.threshold)).clamp_min(0)}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        threshold = params["threshold"].to(images.dtype)
        # |1 - x| above the threshold, |0 - x| below.
        return change_chosen(images, params["chosen"], lambda x: less(threshold, x).sub_(x).abs_())


@dataclass(frozen=True)
class Intensity(Transform):
    """All pixels times a factor that is uniform in `gain`, clipped. Strength s uses the range to the power of s."""

    gain: tuple[float, float] = (0.7, 1.3)
    # One is left over; with less, what comes next would get other numbers than in earlier versions.
    uniforms: ClassVar[int] = 2

    def parameters(self, u: Tensor, strength: Tensor, size: int) -> Params:
        """`gain` (n,)."""
        return {"gain": between(u[:, 0], *power(self.gain, strength))}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        return (per_image(params["gain"], images) * images).clamp_(0, 1)


@dataclass(frozen=True)
class GaussianNoise(Transform):
    """Normal noise, the same in all channels, clipped; its standard deviation is uniform in `std`, at strength s in
    s * `std`."""

    std: tuple[float, float] = (0.05, 0.1)

    def draws(self, size: int) -> int:
        return 1 + size**2

    def parameters(self, u: Tensor, strength: Tensor, size: int) -> Params:
        """`noise` (n, 1, size, size), to be added."""
        std = between(u[:, :1], *self.std) * strength
        # The quantile of a uniform number is normal; 0 would be infinite.
        normal = torch.special.ndtri(u[:, 1:].clamp_min(2**-25))
        return {"noise": (std * normal).unflatten(1, (1, size, size))}

    def apply(self, images: Tensor, params: Params) -> Tensor:
        return (images + params["noise"].to(images.dtype)).clamp_(0, 1)
