"""Residual networks over K members, and the raw image as the baseline below all of them.

The paper's ResNet-8 could not be read as a layer table. Our reading: `resnet8` is a residual network of constant width
f in the style of SNGAN discriminators (Miyato et al. 2018) with BatchNorm: four blocks of two 3x3 convolutions, the
first two halve the resolution by average pooling, then global average pooling, so it has f features. `resnet8-slim` is
the classic CIFAR layout (He et al. 2016) for CPUs: a 3x3 stem and three blocks of widths w, 2w, 4w, strides 1, 2, 2.
`resnet18` has torchvision's layout without its classifier: four stages of two blocks of widths w, 2w, 4w, 8w. All are
initialised by fan-in, also ResNet-18, where torchvision uses fan-out.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cplearn import stacked
from cplearn.config import groups as config


class Block(nn.Module):
    """relu(x' + BN conv relu BN conv x), both 3x3; x' is x, or a 1x1 convolution of it where the shape changes."""

    def __init__(self, members: int, c_in: int, c_out: int, stride: int = 1, pool: bool = False) -> None:
        super().__init__()
        self.conv1 = stacked.Conv2d(members, c_in, c_out, 3, stride)
        self.norm1 = stacked.BatchNorm2d(members, c_out)
        self.conv2 = stacked.Conv2d(members, c_out, c_out, 3)
        self.norm2 = stacked.BatchNorm2d(members, c_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(
                stacked.Conv2d(members, c_in, c_out, 1, stride), stacked.BatchNorm2d(members, c_out)
            )
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        past = self.shortcut(x)
        if past.shape != y.shape:  # Shared images, of as many channels as the block is wide.
            past = past.repeat(1, y.shape[1] // past.shape[1], 1, 1)
        y = F.relu(y + past)
        return F.avg_pool2d(y, 2) if self.pool else y


class ResNet(nn.Sequential):
    """Blocks after an optional stem; (N, K*C or C, H, W) to (K, N, features)."""

    def __init__(self, members: int, stem: nn.Module, blocks: list[Block], features: int) -> None:
        super().__init__(stem, *blocks)
        self.members, self.features = members, features

    def forward(self, x: Tensor) -> Tensor:
        pooled = super().forward(x).mean((2, 3))
        return pooled.unflatten(1, (self.members, self.features)).transpose(0, 1)


class Pixels(nn.Module):
    """The flattened image as features, the baseline below every backbone: (N, C, H, W) to (K, N, C*H*W)."""

    def __init__(self, members: int, features: int) -> None:
        super().__init__()
        self.members, self.features = members, features

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) if all members see the same images, else (N, K*C, H, W)."""
        values = x.flatten(1)
        if values.shape[1] == self.features:
            return values.expand(self.members, -1, -1)
        return values.unflatten(1, (self.members, -1)).transpose(0, 1)


def build(settings: config.BackboneSettings, members: int, channels: int) -> ResNet:
    """K residual networks; their weights are left for `stacked.initialise` to draw."""
    width = settings.width
    assert width is not None
    if settings.name == "resnet8":
        blocks = [
            Block(members, channels, width, pool=True),
            Block(members, width, width, pool=True),
            Block(members, width, width),
            Block(members, width, width),
        ]
        return ResNet(members, nn.Identity(), blocks, width)
    if settings.name == "resnet18":
        widths = [width, width, 2 * width, 2 * width, 4 * width, 4 * width, 8 * width, 8 * width]
        before = [width, *widths[:-1]]
        blocks = [Block(members, a, b, 1 if a == b else 2) for a, b in zip(before, widths, strict=True)]
        return ResNet(members, _stem18(settings, members, channels, width), blocks, 8 * width)
    stem = nn.Sequential(stacked.Conv2d(members, channels, width, 3), stacked.BatchNorm2d(members, width), nn.ReLU())
    blocks = [
        Block(members, width, width),
        Block(members, width, 2 * width, stride=2),
        Block(members, 2 * width, 4 * width, stride=2),
    ]
    return ResNet(members, stem, blocks, 4 * width)


def _stem18(settings: config.BackboneSettings, members: int, channels: int, width: int) -> nn.Sequential:
    imagenet = settings.stem == "imagenet"
    if imagenet:
        convolution = stacked.Conv2d(members, channels, width, 7, 2)
    else:
        convolution = stacked.Conv2d(members, channels, width, 3, padding=settings.stem_padding)
    layers: list[nn.Module] = [convolution, stacked.BatchNorm2d(members, width), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(3, 2, 1)] if imagenet else []))


def smallest_image(settings: config.BackboneSettings) -> int:
    """Side in pixels below which a stage would halve an image of a single pixel."""
    halvings = {"resnet8": 2, "resnet8-slim": 2, "resnet18": 3}[settings.name]
    return 2 ** (halvings + 2 * (settings.stem == "imagenet"))
