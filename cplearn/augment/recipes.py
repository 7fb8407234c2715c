"""Named recipes: the transforms of each view, in order."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cplearn.augment.colour import ColourJitter, GaussianNoise, Grayscale, Intensity, Solarise
from cplearn.augment.geometry import HorizontalFlip, RandomAffine, RandomCrop, RandomResizedCrop
from cplearn.augment.transform import Params, Transform
from cplearn.errors import InputError

RecipeParams = list[list[Params]]
"""Parameters of every transform of every view, in the recipe's order."""


@dataclass(frozen=True)
class Recipe:
    """The transforms that make the views of an image; `views` holds one list of transforms a view.

    Normalisation is no part of it: views are in [0, 1].
    """

    name: str
    views: tuple[tuple[Transform, ...], ...]

    def sample(self, n: int, size: int, generator: torch.Generator, strength: float = 1.0) -> RecipeParams:
        """Random parameters for `n` images of `size` x `size` pixels, on the generator's device.

        Raises InputError unless `strength` is in [0, 2].
        """
        if not 0 <= strength <= 2:
            raise InputError(f"augment.strength must lie between 0 and 2, not {strength!r}", key="augment.strength")
        return [[transform.sample(n, size, generator, strength) for transform in view] for view in self.views]

    def apply(self, images: Tensor, params: RecipeParams, dtype: torch.dtype = torch.float32) -> Tensor:
        """Square images (n, C, H, H) uint8, 1 or 3 channels, to views (V, n, C, H, H) of `dtype` in [0, 1].

        `params` lie on the device of the images. Raises ValueError if the images are no bytes.
        """
        if images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8 in [0, 255], not {images.dtype}")
        originals = images.to(dtype).div_(255)
        results = []
        for transforms, draws in zip(self.views, params, strict=True):
            view = originals
            for transform, values in zip(transforms, draws, strict=True):
                view = transform.apply(view, values)
            results.append(view)
        return torch.stack(results)

    def __call__(
        self,
        images: Tensor,
        generator: torch.Generator,
        strength: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Sample and apply, for one batch of images on the generator's device."""
        return self.apply(images, self.sample(len(images), images.shape[-1], generator, strength), dtype)


def stack_params(params: Sequence[RecipeParams]) -> RecipeParams:
    """Draws of one recipe for several batches to the draws for their concatenation."""
    return [
        [{name: torch.cat([draw[name] for draw in draws]) for name in draws[0]} for draws in zip(*views, strict=True)]
        for views in zip(*params, strict=True)
    ]


def recipe(name: str) -> Recipe:
    """The recipe `name`, one of `names()`; raises InputError if there is none."""
    if name not in _RECIPES:
        near = difflib.get_close_matches(name, _RECIPES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(_RECIPES)}"
        raise InputError(f"augment.recipe {name!r} does not exist; {hint}", key="augment.recipe")
    return _RECIPES[name]


def names() -> list[str]:
    """The recipes there are."""
    return list(_RECIPES)


# The data module for small-scale experiments in the authors' repository. It pads before the jitter; as the padding
# reflects the image, padding last is the same but for the mean of the contrast, which here leaves the border out.
_PAPER = (ColourJitter(0.4, 0.4, 0.4, 0.1, p=0.1), Grayscale(p=0.1), RandomCrop(padding=4))

# The authors' published CIFAR configuration: only the second view is solarised, none is blurred.
_SOLO = (
    RandomResizedCrop(scale=(0.08, 1.0), interpolation="bicubic"),
    ColourJitter(0.4, 0.4, 0.2, 0.1, p=0.8),
    Grayscale(p=0.2),
)

# Our own, for strokes on black, 8x8: handwriting varies in slant, size, place and pressure, but is not mirrored.
_DIGITS = (
    RandomAffine(degrees=15, translate=1 / 8, scale=(0.85, 1.15), shear=10),
    Intensity(gain=(0.7, 1.3)),
    GaussianNoise(std=(0.05, 0.1)),
)

_RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("digits", (_DIGITS, _DIGITS)),
        Recipe("paper", ((*_PAPER, HorizontalFlip(0.5)),) * 2),
        Recipe("paper-noflip", (_PAPER,) * 2),
        Recipe("solo-cifar", ((*_SOLO, HorizontalFlip(0.5)), (*_SOLO, Solarise(p=0.2), HorizontalFlip(0.5)))),
        Recipe("none", ((), ())),
    )
}
