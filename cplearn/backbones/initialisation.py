"""Initial weights, drawn from the generator of the trial that asks for them."""

from __future__ import annotations

import torch
from torch import nn


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
        if isinstance(layer, nn.Conv2d | nn.Linear):
            gain = 2 if isinstance(layer, nn.Conv2d) else 1
            layer.weight.normal_(0, (gain / layer.weight[0].numel()) ** 0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.zero_()
