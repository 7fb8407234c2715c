"""Stacked layers: K members in one call compute what each would alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cplearn import backbones, stacked
from cplearn.config.groups import BackboneSettings

K = 3


def generators(seeds: range | list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def backbone(name: str, seeds: range | list[int], channels: int = 3, size: int = 8, width: int = 4) -> nn.Module:
    model = backbones.build(BackboneSettings(name=name, width=width), len(seeds), channels, size)
    stacked.initialise(model, generators(seeds))
    return model.double()


@pytest.mark.parametrize("name", ["resnet8", "resnet8-slim", "resnet18"])
@pytest.mark.parametrize("shared", [True, False])
def test_members_compute_and_learn_as_if_alone(name: str, shared: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(K, 5, 3, 8, 8, generator=draw, dtype=torch.float64)
    if shared:
        images = images[:1].expand(K, -1, -1, -1, -1)
    together = backbone(name, range(K))
    stack = images[0] if shared else images.transpose(0, 1).flatten(1, 2)
    features = together(stack)
    target = torch.randn(features.shape, generator=draw, dtype=torch.float64)
    (features * target).sum().backward()
    for k in range(K):
        alone = backbone(name, [k])
        own = alone(images[k])
        (own * target[k : k + 1]).sum().backward()
        torch.testing.assert_close(own[0], features[k], rtol=1e-10, atol=1e-12)
        for p, q in zip(together.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(stacked.members_of(p.grad, K)[k], q.grad, rtol=1e-8, atol=1e-10)
        for p, q in zip(together.buffers(), alone.buffers(), strict=True):
            torch.testing.assert_close(stacked.members_of(p, K)[k], q, rtol=1e-10, atol=1e-12)


def test_a_nan_member_changes_no_bit_of_the_others() -> None:
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients: list[list[Tensor]] = []
    for poison in (False, True):
        model = backbone("resnet8-slim", range(K))
        if poison:
            stacked.members_of(next(model.parameters()).data, K)[1].fill_(float("nan"))
        features = model(images)
        features.square().sum().backward()
        assert poison == bool(features[1].isnan().all())
        parts = [stacked.members_of(p.grad, K) for p in model.parameters()]
        gradients.append([part[k] for part in parts for k in (0, 2)])
    for clean, beside_nan in zip(*gradients, strict=True):
        assert torch.equal(clean, beside_nan)


def test_batch_norms_agree_with_torch() -> None:
    draw = torch.Generator().manual_seed(0)
    flat, norm = nn.BatchNorm1d(6), stacked.BatchNorm1d(2, 3)
    x = torch.randn(2, 7, 3, generator=draw)
    together = torch.cat([x[0], x[1]], dim=1)
    for _ in range(2):
        expected, got = flat(together), norm(x)
        torch.testing.assert_close(got, torch.stack([expected[:, :3], expected[:, 3:]]))
        flat.eval(), norm.eval()


def test_state_splits_into_members_and_back() -> None:
    state = backbone("resnet8", range(K)).state_dict()
    own = [stacked.take_member(state, k, K) for k in range(K)]
    alone = backbone("resnet8", [1]).state_dict()
    assert all(torch.equal(own[1][name], alone[name]) for name in alone)
    again = stacked.stack_members(own)
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_initial_weights_come_from_the_members_generator_alone() -> None:
    state = torch.get_rng_state()
    one, two, other = (backbone("resnet8", [seed]).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["1.conv1.weight"], other["1.conv1.weight"])


@pytest.mark.parametrize(
    ("name", "width", "channels", "size", "features", "parameters"),
    [
        # By hand: block 1: 3*128*9 + 128*128*9 + 3*128 (shortcut) + 3 norms; blocks 2-4: 2 * 128*128*9 + 2 norms each.
        ("resnet8", 128, 3, 32, 128, 3456 + 147456 + 384 + 768 + 3 * (294912 + 512)),
        ("resnet8", 256, 3, 32, 256, 6912 + 589824 + 768 + 1536 + 3 * (1179648 + 1024)),
        # Stem 1*32*9 + norm; 2 * 32*32*9 + 2 norms; then doubling widths with a 1x1 shortcut and three norms.
        ("resnet8-slim", 32, 1, 8, 128, 352 + 18560 + (18432 + 36864 + 2048 + 384) + (73728 + 147456 + 8192 + 768)),
        ("pixels", None, 1, 8, 64, 0),
    ],
)
def test_backbone_shapes_and_parameter_counts(
    name: str, width: int | None, channels: int, size: int, features: int, parameters: int
) -> None:
    model = backbones.build(BackboneSettings(name=name, width=width), 2, channels, size)
    assert sum(p.numel() for p in model.parameters()) == 2 * parameters
    assert model.features == features
    assert model(torch.zeros(4, channels, size, size)).shape == (2, 4, features)
