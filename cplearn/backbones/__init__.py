"""Backbones: stacks of K networks from images to features.

All map normalised images to features (K, N, F) and have the attributes `members` (K) and `features` (F).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cplearn.backbones import resnet
from cplearn.backbones.external import TimmModel, drop_from
from cplearn.backbones.external import check as check_timm
from cplearn.config import groups as config
from cplearn.errors import InputError

__all__ = ["Backbone", "build", "check", "drop_from"]

Backbone = resnet.ResNet | resnet.Pixels | TimmModel


def build(
    settings: config.BackboneSettings,
    members: int,
    channels: int,
    image_size: int,
    generators: Sequence[torch.Generator] = (),
) -> Backbone:
    """K backbones for square images.

    Weights are left for `stacked.initialise` to draw, but for those of a timm model, which come from the one generator
    of `generators`. Raises InputError like `check`.
    """
    if settings.name == "pixels":
        return resnet.Pixels(members, channels * image_size**2)
    if settings.name == "timm":
        if members != 1 or len(generators) != 1:
            raise ValueError(f"a timm model has one member and one generator, not {members} and {len(generators)}")
        return TimmModel(settings, channels, image_size, generators[0])
    return resnet.build(settings, members, channels)


def check(
    settings: config.BackboneSettings,
    channels: int,
    image_size: int,
    crops: Sequence[int] = (),
    *,
    shared: bool = False,
) -> None:
    """Raise InputError where a backbone for images of this size does not exist, or cannot take them or smaller crops.

    `crops` are further sizes that the same network must take; `shared` says that several processes are to train it.
    """
    if settings.name == "timm":
        check_timm(settings, channels, image_size, tuple(crops), shared)
    elif settings.name != "pixels" and min([image_size, *crops]) < resnet.smallest_image(settings):
        raise InputError(
            f"images of {min([image_size, *crops])} pixels are too small for backbone {settings.name}, which needs "
            f"{resnet.smallest_image(settings)}",
            key="backbone.name",
        )
