"""Models of timm as backbones: weights and noise from the trial's own streams, and what cannot be used."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import cplearn
import cplearn.data
from cplearn import backbones
from cplearn.backbones.external import DropPath
from cplearn.config.groups import BackboneSettings
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset
from cplearn.distributed import Ranks
from cplearn.errors import InputError
from cplearn.training import TrialTraining

TINY = {"name": "timm", "model": "test_vit", "drop_path": 0.4}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """128 training and 64 test digits of 32x32 pixels."""
    full = cplearn.data.load("digits")

    def enlarge(split: Any, n: int) -> Any:
        images = split.images[:n].repeat_interleave(4, 2).repeat_interleave(4, 3)
        return dataclasses.replace(split, images=images, labels=split.labels[:n])

    return dataclasses.replace(full, train=enlarge(full.train, 128), test=enlarge(full.test, 64))


@pytest.fixture(autouse=True)
def _global_generator_untouched() -> Iterator[None]:
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


def trial(backbone: dict[str, Any] = TINY, **settings: Any) -> TrialSettings:
    method = {"codes": 32, "embedding_dim": 16}
    return TrialSettings.read({"backbone": backbone, "method": method, "epochs": 2, "batch_size": 32, **settings})


def model(seed: int = 0, channels: int = 3, image_size: int = 32, **settings: Any) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    return backbones.build(BackboneSettings(**{**TINY, **settings}), channels, image_size, generator)


def test_vit_s_16_has_its_published_size() -> None:
    vit = model(model="vit_small_patch16_224", image_size=224, drop_path=0.1)
    assert sum(p.numel() for p in vit.parameters()) == 21_665_664
    assert vit.features == 384


def test_weights_come_from_the_generator_alone() -> None:
    one, two, other = (model(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["network.patch_embed.proj.weight"], other["network.patch_embed.proj.weight"])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 16])
def test_features_of_images_and_of_smaller_crops(channels: int, size: int) -> None:
    vit = model(channels=channels)
    assert vit(torch.ones(5, channels, size, size)).shape == (5, vit.features)


# Its pooled features pass through one more layer than `num_features` counts; it accepts images of any size.
def test_models_that_are_no_transformers() -> None:
    network = model(model="mobilenetv3_small_050", image_size=64, drop_path=0.0).eval()
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, network.features)


def test_paths_are_dropped_for_whole_images_in_training_only() -> None:
    layer, x = backbones.external.DropPath(0.25, True), torch.ones(4000, 2, 3)
    assert torch.equal(layer.train()(x), x)
    backbones.drop_from(layer, torch.Generator().manual_seed(0))
    assert torch.equal(layer.eval()(x), x)
    dropped = layer.train()(x)
    per_image = dropped.flatten(1)
    assert torch.equal(per_image, per_image[:, :1].expand(-1, 6))
    assert per_image.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert (per_image[:, 0] == 0).float().mean() == pytest.approx(0.25, abs=0.03)


def test_stochastic_depth_is_that_of_the_seed_and_not_of_a_copy() -> None:
    vit, images = model().train(), torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    average = copy.deepcopy(vit)
    draws = []
    for seed in (0, 0, 1):
        backbones.drop_from(vit, torch.Generator().manual_seed(seed))
        draws.append(vit(images))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(average(images), vit.eval()(images))


def test_training_goes_on_from_a_state_as_if_never_stopped(digits: Dataset) -> None:
    through, first, second = (TrialTraining(trial(), digits) for _ in range(3))
    expected = [through.train_epoch()["train/loss"] for _ in range(2)]
    first.train_epoch()
    second.load_state_dict(first.state_dict())
    assert second.train_epoch()["train/loss"] == expected[1]
    still = TrialTraining(trial({**TINY, "drop_path": 0.0}), digits)
    assert still.train_epoch()["train/loss"] != expected[0]


def test_a_trained_model_is_saved_and_read_back(digits: Dataset, tmp_path: Path) -> None:
    trained = TrialTraining(trial({"name": "timm", "model": "test_resnet"}, epochs=1), digits)
    trained.train_epoch()
    trained.model.save(tmp_path)
    loaded = cplearn.load(tmp_path)
    features = trained.model.features(digits.test.images)
    torch.testing.assert_close(loaded.features(digits.test.images), features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "size", "message"),
    [
        ({"model": "vit_smal_patch16_224"}, 32, r"is no model of timm .*; did you mean 'vit_small_patch16_224'\?"),
        ({"model": "hf-hub:someone/something"}, 32, "is no model of timm"),
        ({}, 30, r"test_vit cannot take images of 30 pixels .*divisible by patch size"),
        ({"model": "ghostnet_050", "drop_path": 0.0}, 64, "draws random numbers that no seed of a trial controls"),
        ({"model": "vgg11"}, 32, "vgg11 has no stochastic depth"),
        ({"model": "test_vit_relpos", "drop_path": 0.0}, 8, "cannot take images of 8 pixels"),
    ],
)
def test_what_timm_cannot_do_is_one_sentence(settings: dict[str, Any], size: int, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        backbones.check(BackboneSettings(**{**TINY, **settings}), 3, size)
    assert (raised.value.key or "").startswith("backbone.")


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_what_timm_can_do_passes(name: str) -> None:
    backbones.check(BackboneSettings(**{**TINY, "model": name}), 1, 32, [16])


def test_a_model_of_one_size_refuses_crops() -> None:
    fixed = BackboneSettings(**{**TINY, "model": "test_coatnet"})
    backbones.check(fixed, 3, 64)
    with pytest.raises(InputError, match="cannot take images of 32 pixels"):
        backbones.check(fixed, 3, 64, [32])


def test_processes_that_share_a_batch_drop_what_one_alone_drops() -> None:
    """Two views of six images, three of them on each of two processes."""
    x = torch.ones(2, 6, 4)

    def dropped(ranks: Ranks) -> torch.Tensor:
        layer = DropPath(0.5, True).train()
        layer.generator = torch.Generator().manual_seed(0)
        layer.join(ranks, 6)
        return layer(x[:, ranks.part(6)].flatten(0, 1)).unflatten(0, (2, -1))

    alone = dropped(Ranks())
    assert 0 < (alone == 0).sum() < alone.numel()
    assert torch.equal(torch.cat([dropped(Ranks(0, 2)), dropped(Ranks(1, 2))], dim=1), alone)
