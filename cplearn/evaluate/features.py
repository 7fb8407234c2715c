"""What a model makes of images: features as they are, of augmented images, and embeddings of several views."""

import torch
from torch import Tensor

from cplearn import augment, streams
from cplearn.data import Split
from cplearn.data.dataset import evenly_spaced
from cplearn.data.image_files import ImageFiles
from cplearn.model import Model
from cplearn.views import BatchSource

BLOCK = 512  # The number of images that are augmented, resized or shown to the backbone at once.


def features(model: Model, images: Tensor | ImageFiles) -> Tensor:
    """Backbone features (N, F) of uint8 images (N, C, H, W) of any size, of one or three channels.

    Images of another size than the model was trained on are resized to it (bilinear, antialiased); greyscale is
    repeated for a model of colour images, and colour becomes luma (ITU-R 601) for a model of greyscale ones. The
    normalisation is that of the training data.
    """
    return torch.cat([model.features(_fitted(block, model), BLOCK) for block in images.split(BLOCK)])


def augmented_features(model: Model, split: Split, epoch: int) -> Tensor:
    """Features (n, F) of the images of a split, each cropped and flipped as in an epoch of a linear probe.

    In evaluation mode an image's features depend on it alone, so they are those of any order and batches.
    """
    stream, device = streams.stream(model.trial), model.device
    source = BatchSource(split.images, {"probe": augment.LINEAR}, device, stream)
    generator = streams.generator(stream, "probe views", epoch, device)
    rows = torch.arange(len(split.images), device=source.rows_on).split(BLOCK)
    blocks = []
    for batch in source.batches(rows, epoch):
        # Crops that were cut from files stand in a dimension of views.
        images = batch["probe"][0] if batch["probe"].ndim == 5 else batch["probe"]
        (views,) = source.recipes["probe"](_fitted(images, model), generator, dtype=model.dtype)
        blocks.append(model.features(views, BLOCK))
    return torch.cat(blocks)


def view_embeddings(model: Model, split: Split, count: int, copies: int, purpose: str) -> Tensor:
    """Embeddings (n, copies, f) of augmented copies of at most `count` images, evenly spaced over the split.

    Views are drawn from the trial's stream `purpose`; the copies run through the views of its recipe.
    """
    trial, device = model.trial, model.device
    recipe = augment.RECIPES[trial.augment.recipe].with_crop_scale(trial.augment.crop_scale_min)
    generator = streams.generator(streams.stream(trial), purpose, device=device)
    blocks = []
    for block in split.images[evenly_spaced(len(split.images), count)].split(BLOCK):
        images = _fitted(block, model).to(device)
        drawn = [recipe(images, generator, trial.augment.strength, model.dtype) for _ in range(copies // 2)]
        blocks.append(torch.stack([model.features(view, BLOCK) for views in drawn for view in views], dim=1))
    # In one call: the scale of CPLearn's embedding depends on the number of rows.
    embedded = model.embeddings(torch.cat(blocks).flatten(0, 1))
    assert embedded is not None
    return embedded.unflatten(0, (-1, copies))


def resized(images: Tensor, size: int) -> Tensor:
    """Images (..., H, H) with sides of `size` pixels."""
    if images.shape[-1] == size:
        return images
    from torchvision.transforms.v2 import functional as transforms  # takes a second, and is seldom needed

    return transforms.resize(images, [size, size], antialias=True)


def _fitted(images: Tensor, model: Model) -> Tensor:
    """Images with the channels and the size of those that the model was trained on."""
    channels = model.images["channels"]
    if images.shape[1] != channels and channels == 3:
        images = images.expand(-1, 3, -1, -1)
    elif images.shape[1] != channels:
        from torchvision.transforms.v2 import functional as transforms

        images = transforms.rgb_to_grayscale(images)
    return resized(images, model.images["image_size"])
