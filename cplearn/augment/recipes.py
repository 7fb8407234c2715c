"""Named recipes: the transforms of each view, in order."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import torch
from torch import Tensor

from cplearn.augment.colour import ColourJitter, GaussianNoise, Grayscale, Intensity, Solarise
from cplearn.augment.geometry import (
    GaussianBlur,
    HorizontalFlip,
    LocalCrop,
    RandomAffine,
    RandomCrop,
    RandomResizedCrop,
)
from cplearn.augment.transform import Transform

_CPU_BATCH = 64  # Images that a CPU augments at a time: enough to make calls cheap, few enough to stay in its cache.


@dataclass(frozen=True)
class Recipe:
    """The transforms that make the views of an image; `views` holds one list of transforms a view.

    Normalisation is no part of it: views are in [0, 1].

    >>> images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
    >>> RECIPES["digits"](images, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 1, 8, 8])
    """

    views: tuple[tuple[Transform, ...], ...]

    def with_crop_scale(self, smallest: float | None) -> "Recipe":
        """This recipe, its random resized crops of at least this part of an image's area; None changes nothing."""
        if smallest is None:
            return self
        changed = (
            [replace(t, scale=(smallest, t.scale[1])) if isinstance(t, RandomResizedCrop) else t for t in transforms]
            for transforms in self.views
        )
        return Recipe(tuple(map(tuple, changed)))

    @property
    def crops(self) -> tuple[RandomResizedCrop, ...]:
        """The random resized crop of each view; empty unless every view has one."""
        crops = [[t for t in transforms if isinstance(t, RandomResizedCrop)] for transforms in self.views]
        return tuple(of_view[0] for of_view in crops) if all(crops) else ()

    def after_crops(self) -> "Recipe":
        """What is left to do where `crops` were made already, when the images were decoded."""
        pairs = zip(self.views, self.crops or (None,) * len(self.views), strict=True)
        return Recipe(tuple(tuple(t for t in transforms if t is not crop) for transforms, crop in pairs))

    def sample(self, n: int, size: int, generator: torch.Generator) -> Tensor:
        """Random numbers (n, V, k) in [0, 1) for V views of `n` images of `size` x `size` pixels, on the generator's
        device."""
        most = max(_count(transforms, size) for transforms in self.views)
        return torch.rand(n, len(self.views), most, generator=generator, device=generator.device)

    def apply(self, images: Tensor, draws: Tensor, strength: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
        """Square images (n, C, H, H) uint8, 1 or 3 channels, to views (V, n, C, H, H) of `dtype` in [0, 1].

        Images may also be (V, n, C, H, H), an image of its own for each view. `draws` (n, V, k) are those of `sample`,
        on the device of the images. Raises ValueError if the images are no bytes.
        """
        if images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 in [0, 255], not {images.dtype}")
        batch = _CPU_BATCH if images.device.type == "cpu" else images.shape[-4]
        on_device = torch.full((), strength, dtype=torch.float32, device=images.device)
        parts = zip(images.split(batch, -4), draws.split(batch), strict=True)
        # Nothing here is differentiated; the final copy is an ordinary tensor again.
        with torch.inference_mode():
            views = [self._apply(part, uniform.transpose(0, 1), on_device, dtype) for part, uniform in parts]
        return torch.cat(views, 1)

    def _apply(self, images: Tensor, uniform: Tensor, strength: Tensor, dtype: torch.dtype) -> Tensor:
        """The views of some images; `uniform` (V, n, k)."""
        views = len(self.views)
        # What the views have in common is done to all of them at once: half the launches on an accelerator.
        shared = takewhile(lambda row: all(t == row[0] for t in row), zip(*self.views, strict=False))
        common = [row[0] for row in shared]
        rest = [transforms[len(common) :] for transforms in self.views]
        scaled = images.to(dtype).div_(255)
        stacked = scaled.repeat(views, 1, 1, 1) if images.ndim == 4 else scaled.flatten(0, 1)
        stacked = _run(common, stacked, uniform.flatten(0, 1), strength)
        unused = uniform[..., _count(common, images.shape[-1]) :]
        each = zip(rest, stacked.chunk(views), unused, strict=True)
        return torch.stack([_run(transforms, view, numbers, strength) for transforms, view, numbers in each])

    def __call__(
        self, images: Tensor, generator: torch.Generator, strength: float = 1.0, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Sample and apply, for one batch of images on the generator's device."""
        return self.apply(images, self.sample(len(images), images.shape[-1], generator), strength, dtype)


def _count(transforms: Sequence[Transform], size: int) -> int:
    return sum(transform.draws(size) for transform in transforms)


def _run(transforms: Sequence[Transform], images: Tensor, uniform: Tensor, strength: Tensor) -> Tensor:
    """The transforms one after the other, each with its columns of `uniform` (n, k)."""
    size = images.shape[-1]
    for transform in transforms:
        count = transform.draws(size)
        images = transform.apply(images, transform.parameters(uniform[:, :count], strength, size))
        uniform = uniform[:, count:]
    return images


def local_crops(base: Recipe, views: int, size: int, scale: tuple[float, float]) -> Recipe:
    """`views` local crops of `size` x `size` pixels, whose area is a part of the image's within `scale`.

    They go through what the first view of `base` goes through but for its crop; the crop comes last, so the other
    transforms see the whole image.
    """
    others = [t for t in base.views[0] if not isinstance(t, RandomCrop | RandomResizedCrop)]
    return Recipe(((*others, LocalCrop(scale=scale, size=size)),) * views)


# The data module for small-scale experiments in the authors' repository. It pads before the jitter; as the padding
# reflects the image, padding last is the same but for the mean of the contrast, which here leaves the border out.
_PAPER = (ColourJitter(0.4, 0.4, 0.4, 0.1, p=0.1), Grayscale(p=0.1), RandomCrop(padding=4))

# The authors' published CIFAR configuration: only the second view is solarised, none is blurred.
_SOLO = (
    RandomResizedCrop(scale=(0.08, 1.0), interpolation="bicubic"),
    ColourJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
    Grayscale(p=0.2),
)

# The symmetric views with which solo-learn trains SimCLR and SwAV on CIFAR, and those of its VICReg.
_SOLO_SYMMETRIC = (
    RandomResizedCrop(scale=(0.08, 1.0), interpolation="bicubic"),
    ColourJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
    Grayscale(p=0.2),
    GaussianBlur(radius=6, sigma=(0.1, 2.0), p=0.5),
    HorizontalFlip(0.5),
)
_SOLO_VICREG = (
    RandomResizedCrop(scale=(0.2, 1.0), interpolation="bicubic"),
    *_SOLO[1:],
    Solarise(p=0.1),
    HorizontalFlip(0.5),
)

# DINO's two global views (Caron et al. 2021): the first is always blurred, the second seldom, but it may be solarised.
# The window of the blur ends at three standard deviations or more.
_IMAGENET = (
    RandomResizedCrop(scale=(0.25, 1.0), interpolation="bicubic"),
    HorizontalFlip(0.5),
    ColourJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
    Grayscale(p=0.2),
)

# Our own, for strokes on black, 8x8: handwriting varies in slant, size, place and pressure, but is not mirrored. Shifts
# up to half a pixel beat a whole one on 360 held-out training images (linear probe .991 against .987, three seeds of
# CPLearn, 20 epochs).
_DIGITS = (
    RandomAffine(degrees=15, translate=1 / 16, scale=(0.85, 1.15), shear=10),
    Intensity(gain=(0.7, 1.3)),
    GaussianNoise(std=(0.05, 0.1)),
)

LINEAR = Recipe(((RandomResizedCrop(scale=(0.08, 1.0), interpolation="bilinear"), HorizontalFlip(0.5)),))
"""What solo-learn's linear evaluation does to training images."""

RECIPES = {
    "digits": Recipe((_DIGITS, _DIGITS)),
    "paper": Recipe(((*_PAPER, HorizontalFlip(0.5)),) * 2),
    "paper-noflip": Recipe((_PAPER,) * 2),
    "solo-cifar": Recipe(((*_SOLO, HorizontalFlip(0.5)), (*_SOLO, Solarise(p=0.2), HorizontalFlip(0.5)))),
    "solo-cifar-symmetric": Recipe((_SOLO_SYMMETRIC,) * 2),
    "solo-cifar-vicreg": Recipe((_SOLO_VICREG,) * 2),
    "imagenet": Recipe(
        (
            (*_IMAGENET, GaussianBlur(radius=6, sigma=(0.1, 2.0), p=1.0)),
            (*_IMAGENET, GaussianBlur(radius=6, sigma=(0.1, 2.0), p=0.1), Solarise(p=0.2)),
        )
    ),
    "none": Recipe(((), ())),
}
"""The values of the setting `augment.recipe`."""
