"""Backbones: networks from normalised images (N, C, H, W) to features (N, F), where F is their attribute `features`.

`build` makes one with its initial weights, `check` says whether it exists for images of a size, and `drop_from` hands
stochastic depth its draws. Nothing here knows a method, a loss or an optimiser.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from cplearn.backbones import external, resnet
from cplearn.backbones.external import drop_from
from cplearn.config.groups import OWN_BACKBONES, BackboneSettings
from cplearn.errors import InputError

__all__ = ["build", "check", "drop_from", "initialise"]


def build(settings: BackboneSettings, channels: int, image_size: int, generator: torch.Generator) -> Any:
    """A backbone for square images, its weights drawn from `generator`. Raises InputError like `check`.

    >>> network = build(BackboneSettings(name="resnet8-slim", width=4), 3, 32, torch.Generator().manual_seed(0))
    >>> network(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 16])
    """
    if settings.name == "pixels":
        return resnet.Pixels(channels * image_size**2)
    if _is_external(settings):
        return external.build(settings, channels, image_size, generator)
    network = resnet.build(settings, channels)
    initialise(network, generator)
    return network


def check(
    settings: BackboneSettings, channels: int, image_size: int, crops: Sequence[int] = (), *, shared: bool = False
) -> None:
    """Raise InputError where a backbone for images of this size does not exist, or cannot take them or smaller crops.

    `crops` are further sizes that the same network must take; `shared` says that several processes are to train it.
    """
    if _is_external(settings):
        external.check(settings, channels, image_size, tuple(crops), shared)
        return
    smallest, needed = min([image_size, *crops]), resnet.smallest_image(settings)
    if smallest < needed:
        raise InputError(
            f"images of {smallest} pixels are too small for backbone {settings.name}, which needs {needed}",
            key="backbone.name",
        )


def _is_external(settings: BackboneSettings) -> bool:
    return settings.name == "timm" or settings.name not in OWN_BACKBONES


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of every convolution and linear map in `module`, in the order of its layers, on the CPU.

    Weights are normal with a standard deviation of sqrt(2 / fan-in) in a convolution (He et al. 2015) and of
    sqrt(1 / fan-in) in a linear map; biases are 0. Norms keep the ones and zeros that torch gives them.

    >>> layer = nn.Linear(4, 2)
    >>> initialise(layer, torch.Generator().manual_seed(0))
    >>> layer.bias.tolist()
    [0.0, 0.0]
    """
    for layer in module.modules():
        # A model that is only laid out has no numbers, and to pretend to draw them would import torch's compiler.
        if isinstance(layer, nn.Conv2d | nn.Linear) and not layer.weight.is_meta:
            gain = 2 if isinstance(layer, nn.Conv2d) else 1
            layer.weight.normal_(0, (gain / layer.weight[0].numel()) ** 0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()
