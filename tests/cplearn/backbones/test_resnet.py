"""ResNet-18 against torchvision's, initial weights, and the images that each network accepts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from cplearn import backbones
from cplearn.backbones.resnet import Shortcut
from cplearn.config.groups import BackboneSettings
from cplearn.errors import InputError

DRAW = torch.Generator().manual_seed(0)


def theirs(stem: str, padding: int) -> nn.Module:
    """torchvision's ResNet-18 without classifier, after the recipe for small images where the stem is cifar."""
    model = torchvision.models.resnet18()
    model.fc = nn.Identity()
    if stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, 3, padding=padding, bias=False)
        model.maxpool = nn.Identity()
    return model


@pytest.mark.parametrize(("stem", "padding", "size"), [("cifar", 1, 32), ("cifar", 2, 32), ("imagenet", 1, 64)])
def test_resnet18_computes_what_torchvisions_does_with_as_many_parameters(stem: str, padding: int, size: int) -> None:
    draw = torch.Generator().manual_seed(0)
    reference = theirs(stem, padding).eval()
    for tensor in (*reference.parameters(), *reference.buffers()):
        if tensor.ndim:
            tensor.data = torch.rand(tensor.shape, generator=draw) * 0.2 - 0.05 * (tensor.ndim > 1)
    ours = backbones.build(BackboneSettings(name="resnet18", stem=stem, stem_padding=padding), 3, size, DRAW).eval()
    values = reference.state_dict().values()
    # Both list their layers in the order of computation.
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    images = torch.randn(2, 3, size, size, generator=draw)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), reference(images), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in reference.parameters())


@pytest.mark.parametrize(("stem", "parameters"), [("cifar", 11_168_832), ("imagenet", 11_176_512)])
def test_resnet18_has_the_published_number_of_parameters(stem: str, parameters: int) -> None:
    model = backbones.build(BackboneSettings(name="resnet18", stem=stem), 3, 64, DRAW)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.features == 512


@pytest.mark.parametrize(
    ("settings", "smallest"),
    [
        ({"name": "resnet8", "width": 2}, 4),
        ({"name": "resnet8-slim", "width": 2}, 4),
        ({"name": "resnet18", "width": 2}, 8),
        ({"name": "resnet18", "width": 2, "stem": "imagenet"}, 32),
        ({"name": "pixels"}, 1),
    ],
)
def test_images_that_are_too_small_are_refused(settings: dict[str, Any], smallest: int) -> None:
    backbone = BackboneSettings(**settings)
    backbones.check(backbone, 1, smallest)
    model = backbones.build(backbone, 1, smallest, DRAW)
    assert model(torch.ones(3, 1, smallest, smallest)).shape == (3, model.features)
    if settings["name"] != "pixels":
        with pytest.raises(InputError, match=f"of {smallest - 1} pixels are too small .* which needs {smallest}"):
            backbones.check(backbone, 1, 2 * smallest, [smallest, smallest - 1])


def test_initial_weights_are_those_of_the_generator_with_variances_by_fan_in() -> None:
    def build(seed: int) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        return backbones.build(BackboneSettings(name="resnet8", width=64), 3, 8, generator)

    one, same, other = (build(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["1.conv1.weight"], other["1.conv1.weight"])
    assert one["2.conv1.weight"].std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert torch.equal(one["1.norm1.weight"], torch.ones(64))


@pytest.mark.parametrize("size", [7, 8])
def test_a_strided_shortcut_is_a_strided_convolution(size: int) -> None:
    shortcut = Shortcut(3, 5, 2)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        shortcut(images), nn.functional.conv2d(images.double(), shortcut.weight.double(), stride=2).float()
    )
