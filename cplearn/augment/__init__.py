"""Augmentation of whole batches, on the device that trains, from a generator that is passed in.

Random draws and arithmetic are separate: `Recipe.sample` draws uniform numbers, `Recipe.apply` turns images and numbers
into views. So the batches of several trials, each drawn from its own generator, are augmented in one call:
`recipe.apply(torch.cat(batches), stack_params(draws))`. Neither makes the host wait for an accelerator.
"""

from __future__ import annotations

from cplearn.augment.colour import ColourJitter, GaussianNoise, Grayscale, Intensity, Solarise
from cplearn.augment.geometry import (
    GaussianBlur,
    HorizontalFlip,
    LocalCrop,
    RandomAffine,
    RandomCrop,
    RandomResizedCrop,
)
from cplearn.augment.recipes import LINEAR, Draws, Recipe, local_crops, names, recipe, stack_params
from cplearn.augment.transform import Params, Transform

__all__ = [
    "LINEAR",
    "ColourJitter",
    "Draws",
    "GaussianBlur",
    "GaussianNoise",
    "Grayscale",
    "HorizontalFlip",
    "Intensity",
    "LocalCrop",
    "Params",
    "RandomAffine",
    "RandomCrop",
    "RandomResizedCrop",
    "Recipe",
    "Solarise",
    "Transform",
    "local_crops",
    "names",
    "recipe",
    "stack_params",
]
