"""Batches of training images on the device that augments them: from memory, or decoded ahead from their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cplearn import augment, streams
from cplearn.data.image_files import Crops, ImageFiles

Draw = tuple[int, float]
"""A random stream and the strength at which its crops are drawn."""


class Memory:
    """Images that lie on the device as one tensor; every recipe starts from the same batch of them.

    `rows_on` is where the rows of the batches are to lie, so that nothing is copied or waited for.
    """

    def __init__(self, images: Tensor, recipes: Mapping[str, augment.Recipe], device: torch.device) -> None:
        self.images, self.recipes, self.rows_on = images.to(device), dict(recipes), device

    def batches(self, rows: Sequence[Tensor], epoch: int) -> Iterator[dict[str, Tensor]]:
        """For each batch of `rows` (n,) the images (n, C, H, W) uint8 that each recipe starts from."""
        for chosen in rows:
            yield dict.fromkeys(self.recipes, self.images[chosen])


class Files:
    """Images in files, decoded while the device works on earlier batches.

    The random resized crops of a recipe are cut when the images are decoded, from their full resolution, so `recipes`
    hold only what is left to do. Crops come from a stream of their own, "crops", drawn batch by batch on the CPU: they
    depend on the trial's seed and the epoch, and on nothing that happens while files are read. A recipe without such
    crops starts from the centres of the images, as evaluation does.
    """

    rows_on = torch.device("cpu")

    def __init__(
        self,
        images: ImageFiles,
        recipes: Mapping[str, augment.Recipe],
        device: torch.device,
        draws: Sequence[Draw],
    ) -> None:
        self.images, self.device, self.draws = images, device, draws
        self.crops = {name: recipe.crops for name, recipe in recipes.items()}
        self.recipes = {name: recipe.after_crops() for name, recipe in recipes.items()}

    def batches(self, rows: Sequence[Tensor], epoch: int) -> Iterator[dict[str, Tensor]]:
        """For each batch of `rows` (D*n,), n of each draw, what each recipe starts from.

        That is (D*n, C, H, W) uint8, or (V, D*n, C, H, W) where its V views are crops. Raises InputError if a file
        cannot be read.
        """
        generators = [streams.generator(stream, "crops", epoch) for stream, _ in self.draws]
        requests = ((chosen, self._draw(chosen, generators)) for chosen in rows)
        for crops in self.images.decoded(requests, pin=self.device.type == "cuda"):
            on_device = iter([crop.to(self.device, non_blocking=True) for crop in crops])
            yield {
                name: torch.stack([next(on_device) for _ in views]) if views else next(on_device)
                for name, views in self.crops.items()
            }

    def _draw(self, rows: Tensor, generators: Sequence[torch.Generator]) -> list[Crops]:
        """The crops of every view of every recipe, in order."""
        chosen: list[Crops] = []
        for views in self.crops.values():
            chosen += [self._draw_view(crop, rows, generators) for crop in views] or [self.images.centre(rows)]
        return chosen

    def _draw_view(self, crop: augment.RandomResizedCrop, rows: Tensor, generators: Sequence[torch.Generator]) -> Crops:
        size = self.images.size
        boxes = []
        for own, generator, (_, strength) in zip(rows.chunk(len(generators)), generators, self.draws, strict=True):
            uniform = torch.rand(len(own), crop.draws(size), generator=generator)
            boxes.append(crop.boxes(uniform, torch.full((len(own),), strength), self.images.extents[own]))
        return Crops(torch.cat(boxes), crop.side(size))


def source(
    images: Tensor | ImageFiles,
    recipes: Mapping[str, augment.Recipe],
    device: torch.device,
    draws: Sequence[Draw],
) -> Memory | Files:
    """Where the batches of a pack come from; D `draws` are told apart, by their place in each batch."""
    if isinstance(images, ImageFiles):
        return Files(images, recipes, device, draws)
    return Memory(images, recipes, device)
