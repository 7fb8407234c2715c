"""Augmentation of whole batches, on the device that trains, from a generator that is passed in.

Random draws and arithmetic are separate: `Recipe.sample` draws uniform numbers, `Recipe.apply` turns images and numbers
into views; neither makes the host wait for an accelerator. The transforms are in `colour` and `geometry`, their order
in `recipes`. May be imported by all of `cplearn`; knows tensors only, no data set and no model.
"""

from cplearn.augment.geometry import RandomResizedCrop
from cplearn.augment.recipes import LINEAR, RECIPES, Recipe, local_crops

__all__ = ["LINEAR", "RECIPES", "RandomResizedCrop", "Recipe", "local_crops"]
