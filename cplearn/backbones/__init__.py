"""Backbones: networks from normalised images (N, C, H, W) to features (N, F), where F is their attribute `features`.

`build` makes one with its initial weights, `check` says whether it exists for images of a size, and `drop_from` hands
stochastic depth its draws. Nothing here knows a method, a loss or an optimiser.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cplearn.backbones import external, resnet
from cplearn.backbones.external import TimmModel, drop_from
from cplearn.backbones.initialisation import initialise
from cplearn.config.groups import BackboneSettings
from cplearn.errors import InputError

__all__ = ["Backbone", "build", "check", "drop_from"]

Backbone = resnet.ResNet | resnet.Pixels | TimmModel


def build(settings: BackboneSettings, channels: int, image_size: int, generator: torch.Generator) -> Backbone:
    """A backbone for square images, its weights drawn from `generator`. Raises InputError like `check`.

    >>> network = build(BackboneSettings(name="resnet8-slim", width=4), 3, 32, torch.Generator().manual_seed(0))
    >>> network(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 16])
    """
    if settings.name == "pixels":
        return resnet.Pixels(channels * image_size**2)
    if settings.name == "timm":
        return TimmModel(settings, channels, image_size, generator)
    network = resnet.build(settings, channels)
    initialise(network, generator)
    return network


def check(
    settings: BackboneSettings, channels: int, image_size: int, crops: Sequence[int] = (), *, shared: bool = False
) -> None:
    """Raise InputError where a backbone for images of this size does not exist, or cannot take them or smaller crops.

    `crops` are further sizes that the same network must take; `shared` says that several processes are to train it.
    """
    if settings.name == "timm":
        external.check(settings, channels, image_size, tuple(crops), shared)
    elif settings.name != "pixels" and min([image_size, *crops]) < resnet.smallest_image(settings):
        raise InputError(
            f"images of {min([image_size, *crops])} pixels are too small for backbone {settings.name}, which needs "
            f"{resnet.smallest_image(settings)}",
            key="backbone.name",
        )
