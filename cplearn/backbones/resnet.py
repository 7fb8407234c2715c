"""Residual networks, and the raw image as the baseline below all of them.

The paper's ResNet-8 could not be read as a layer table. Our reading: `resnet8` is a residual network of constant width
f in the style of SNGAN discriminators (Miyato et al. 2018) with BatchNorm: four blocks of two 3x3 convolutions, the
first two halve the resolution by average pooling, then global average pooling, so it has f features. `resnet8-slim` is
the classic CIFAR layout (He et al. 2016) for CPUs: a 3x3 stem and three blocks of widths w, 2w, 4w, strides 1, 2, 2.
`resnet18` has torchvision's layout without its classifier: four stages of two blocks of widths w, 2w, 4w, 8w. All are
initialised by fan-in, also ResNet-18, where torchvision uses fan-out.
"""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from cplearn.config.groups import BackboneSettings


class Shortcut(nn.Conv2d):
    """A 1x1 convolution that picks the pixels of its stride first.

    On processors without AVX-512, oneDNN's strided 1x1 convolution of fewer than eight channels writes beyond its
    buffers (torch 2.14.1), and the process dies later.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__(c_in, c_out, 1, bias=False)
        self.spacing = stride

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, c_in, H, W); returns (N, c_out, H / stride, W / stride), rounded up."""
        return super().forward(x[:, :, :: self.spacing, :: self.spacing] if self.spacing > 1 else x)


class Block(nn.Module):
    """relu(x' + BN conv relu BN conv x), both 3x3; x' is x, or a 1x1 convolution of it where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1, pool: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(Shortcut(c_in, c_out, stride), nn.BatchNorm2d(c_out))
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        y = F.relu(y + self.shortcut(x))
        return F.avg_pool2d(y, 2) if self.pool else y


class ResNet(nn.Sequential):
    """Blocks after an optional stem: (N, C, H, W) to (N, features)."""

    def __init__(self, stem: nn.Module, blocks: list[Block], features: int) -> None:
        super().__init__(stem, *blocks)
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean((2, 3))


class Pixels(nn.Flatten):
    """The flattened image as features, the baseline below every backbone: (N, C, H, W) to (N, C*H*W)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features


def build(settings: BackboneSettings, channels: int) -> ResNet:
    width = settings.width
    assert width is not None
    if settings.name == "resnet8":
        pooled = [Block(channels, width, pool=True), Block(width, width, pool=True)]
        return ResNet(nn.Identity(), [*pooled, Block(width, width), Block(width, width)], width)
    widths = [width * 2**stage for stage in ((0, 0, 1, 1, 2, 2, 3, 3) if settings.name == "resnet18" else (0, 1, 2))]
    blocks = [Block(a, b, 1 if a == b else 2) for a, b in itertools.pairwise([width, *widths])]
    if settings.stem == "imagenet":
        convolution, pooling = nn.Conv2d(channels, width, 7, 2, padding=3, bias=False), [nn.MaxPool2d(3, 2, 1)]
    else:
        convolution, pooling = nn.Conv2d(channels, width, 3, padding=settings.stem_padding, bias=False), []
    return ResNet(nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(), *pooling), blocks, widths[-1])


def smallest_image(settings: BackboneSettings) -> int:
    """Side in pixels below which a stage would halve an image of a single pixel."""
    halvings = {"resnet8": 2, "resnet8-slim": 2, "resnet18": 3}.get(settings.name, 0)
    return 2 ** (halvings + 2 * (settings.stem == "imagenet"))
