"""Features of images of any size and number of channels, and of augmented ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from cplearn import training
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset, Split, load
from cplearn.evaluate.features import augmented_features, features, view_embeddings
from trials import trial


def painted(split: Split) -> Split:
    """The same images in three channels that differ, and of twice the size."""
    images = transforms.resize(split.images, [16, 16], antialias=True)
    return dataclasses.replace(split, images=torch.cat([images, images // 2, 255 - images], dim=1))


def test_images_of_another_size_or_number_of_channels_are_brought_to_the_models(digits: Dataset) -> None:
    grey = training.TrialTraining(trial(), digits).model
    in_colour = dataclasses.replace(digits, train=painted(digits.train), test=painted(digits.test))
    small = transforms.resize(transforms.rgb_to_grayscale(in_colour.test.images), [8, 8], antialias=True)
    torch.testing.assert_close(features(grey, in_colour.test.images), grey.features(small))
    colour = training.TrialTraining(trial(augment={"recipe": "none"}), in_colour).model
    repeated = transforms.resize(digits.test.images, [16, 16], antialias=True).repeat(1, 3, 1, 1)
    torch.testing.assert_close(features(colour, digits.test.images), colour.features(repeated))
    assert torch.equal(features(grey, digits.test.images), grey.features(digits.test.images))


def test_images_of_a_probe_are_augmented_anew_in_each_epoch_and_alike_from_files(tmp_path: Path) -> None:
    """The crops of one seed and epoch are the same in every call; a model of raw pixels shows them."""
    folder, draw = tmp_path / "images", np.random.default_rng(0)
    for name in (f"{split}/{kind}/{number}.png" for split in ("train", "test") for kind in "ab" for number in range(6)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (12, 12, 3), np.uint8)).save(folder / name)
    for decode in ("cached", "on-demand"):
        settings = {"dataset": f"folder:{folder}", "decode": decode, "image_size": 8}
        pixels = TrialSettings.read(settings | {"method": "untrained", "backbone": {"name": "pixels"}})
        dataset = load(**pixels.data_request(), root=tmp_path)
        model = training.TrialTraining(pixels, dataset).model
        first, again, other = (augmented_features(model, dataset.train, epoch) for epoch in (0, 0, 1))
        assert first.shape == features(model, dataset.train.images).shape
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_embeddings_of_views_are_those_of_the_recipe(digits: Dataset) -> None:
    """Without augmentation all copies are the image itself."""
    model = training.TrialTraining(trial(augment={"recipe": "none"}), digits).model
    views = view_embeddings(model, digits.train, 20, 4, "agreement")
    embeddings = model.embeddings(model.features(digits.train.images[::8]).repeat_interleave(4, 0))
    assert embeddings is not None
    torch.testing.assert_close(views, embeddings.unflatten(0, (20, 4)))
    model.trial = trial()
    other = view_embeddings(model, digits.train, 20, 4, "agreement")
    assert not torch.allclose(other[:, 0], other[:, 1])
    assert torch.equal(other, view_embeddings(model, digits.train, 20, 4, "agreement"))
