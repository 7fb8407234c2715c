"""Recipes as a whole: seeds, strength, views, and what an accelerator asks of them."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from cplearn import augment
from cplearn.augment import RECIPES, Recipe
from cplearn.augment.colour import Solarise
from cplearn.augment.geometry import LocalCrop, RandomCrop, RandomResizedCrop
from cplearn.config.groups import AugmentSettings

NAMES = list(RECIPES)
RANDOM = [name for name in NAMES if name != "none"]
SHAPES = [(5, 3, 32, 32), (5, 1, 8, 8), (1, 3, 8, 8), (1, 1, 32, 32), (150, 3, 8, 8)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bytes_of(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=generator(9), dtype=torch.uint8)


def test_names_are_those_of_the_settings() -> None:
    assert set(NAMES) == set(get_args(AugmentSettings.model_fields["recipe"].annotation))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_views_are_in_range(name: str, shape: tuple[int, ...], dtype: torch.dtype, strength: float) -> None:
    images = bytes_of(*shape)
    before = images.clone()
    views = RECIPES[name](images, generator(), strength, dtype)
    assert views.shape == (2, *shape)
    assert views.dtype == dtype
    assert views.min() >= 0
    assert views.max() <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", RANDOM)
def test_the_generator_decides(name: str) -> None:
    images = bytes_of(16, 3, 32, 32)
    global_state = torch.get_rng_state()
    first, again, other = (RECIPES[name](images, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(torch.get_rng_state(), global_state)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_strength_leaves_the_image(name: str, shape: tuple[int, ...]) -> None:
    images = bytes_of(*shape)
    views = RECIPES[name](images, generator(), strength=0.0)
    torch.testing.assert_close(views, (images / 255).expand(2, *shape), rtol=0, atol=1e-6)


def test_none_is_the_image() -> None:
    images = bytes_of(5, 3, 8, 8)
    assert torch.equal(RECIPES["none"](images, generator()), (images / 255).expand(2, 5, 3, 8, 8))


def test_more_strength_changes_more() -> None:
    images = bytes_of(64, 3, 32, 32)
    for name in RANDOM:
        changes = [(RECIPES[name](images, generator(), s)[0] - images / 255).abs().mean() for s in (0.2, 0.6, 1.0)]
        assert changes[0] < changes[1] < changes[2], name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8)])
def test_an_image_is_augmented_alike_in_every_batch(name: str, shape: tuple[int, ...]) -> None:
    """Several processes share the draws of a batch: each augments its part as one process would."""
    images = bytes_of(74, *shape)
    draws = RECIPES[name].sample(len(images), shape[-1], generator())
    parts = [slice(0, 3), slice(3, 4), slice(4, 74)]
    alone = [RECIPES[name].apply(images[part], draws[part], 1.5) for part in parts]
    assert torch.equal(RECIPES[name].apply(images, draws, 1.5), torch.cat(alone, 1))


@pytest.mark.parametrize("name", NAMES)
def test_views_are_the_transforms_in_their_order(name: str) -> None:
    images, size = bytes_of(20, 3, 32, 32), 32
    draws = RECIPES[name].sample(len(images), size, generator())
    views = RECIPES[name].apply(images, draws)
    for v, transforms in enumerate(RECIPES[name].views):
        view, used = images / 255, 0
        for transform in transforms:
            u = draws[:, v, used : used + transform.draws(size)]
            view = transform.apply(view, transform.parameters(u, torch.tensor(1.0), size))
            used += transform.draws(size)
        torch.testing.assert_close(views[v], view, rtol=0, atol=1e-6)


def test_only_the_second_view_of_the_authors_recipe_is_solarised() -> None:
    kinds = [[type(transform) for transform in view] for view in RECIPES["solo-cifar"].views]
    assert [Solarise in kind for kind in kinds] == [False, True]
    assert [kind for kind in kinds[1] if kind is not Solarise] == kinds[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_accelerator_is_never_waited_for(name: str, channels: int) -> None:
    """On the meta device nothing has a value, so any step that needs one on the host fails."""
    draws = RECIPES[name].sample(4, 32, generator())
    images = bytes_of(4, channels, 32, 32).to("meta")
    views = RECIPES[name].apply(images, draws.to("meta"))
    assert views.shape == (2, 4, channels, 32, 32)


def test_views_can_be_trained_on() -> None:
    weight = torch.ones((), requires_grad=True)
    (weight * RECIPES["paper"](bytes_of(2, 3, 8, 8), generator())).sum().backward()
    assert weight.grad is not None


def test_floats_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        RECIPES["paper"](torch.rand(1, 3, 8, 8), generator())


def test_a_recipe_may_have_any_number_of_views() -> None:
    images = bytes_of(3, 3, 8, 8)
    paper = RECIPES["paper"].views[0]
    views = Recipe((paper, (), paper[:2], paper[1:]))(images, generator())
    assert views.shape == (4, *images.shape)
    assert torch.equal(views[1], images / 255)


@pytest.mark.parametrize("name", NAMES)
def test_local_crops_are_the_recipe_with_a_small_crop(name: str) -> None:
    images, scale = bytes_of(70, 3, 32, 32), (0.05, 0.4)
    local = augment.local_crops(RECIPES[name], 3, 12, scale)
    views = local(images, generator())
    assert views.shape == (3, 70, 3, 12, 12)
    assert not torch.equal(views[0], views[1])
    assert 0 <= views.min() <= views.max() <= 1
    kinds = [[type(t) for t in transforms] for transforms in local.views]
    crops = (RandomCrop, RandomResizedCrop)
    assert kinds == [[*(type(t) for t in RECIPES[name].views[0] if not isinstance(t, crops)), LocalCrop]] * 3


def test_local_crops_are_small_parts_of_the_image() -> None:
    transform = augment.local_crops(RECIPES["none"], 1, 12, (0.05, 0.4)).views[0][0]
    u = torch.rand(500, transform.draws(32), generator=generator())
    area = transform.parameters(u, torch.tensor(1.0), 32)["box"][:, 2:].prod(1) / 32**2
    assert 0.04 < area.min() < 0.08
    assert 0.35 < area.max() < 0.43
