"""Batches of training images on the device that augments them: from memory, or decoded ahead from their files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cplearn import augment, streams
from cplearn.data.image_files import Crops, ImageFiles
from cplearn.distributed import Ranks

Draw = tuple[int, float]
"""A random stream and the strength at which its crops are drawn."""
Rows = Sequence[Sequence[Tensor]]
"""Of each batch the rows (n,) of each of D draws."""


class Memory:
    """Images that lie on the device as one tensor; every recipe starts from the same batch of them.

    `rows_on` is where the rows of the batches are to lie, so that nothing is copied or waited for.
    """

    def __init__(self, images: Tensor, recipes: Mapping[str, augment.Recipe], device: torch.device) -> None:
        self.images, self.recipes, self.rows_on = images.to(device), dict(recipes), device

    def batches(self, rows: Rows, epoch: int) -> Iterator[dict[str, Tensor]]:
        """For each batch of `rows` the images (D*n, C, H, W) uint8 that each recipe starts from."""
        for chosen in rows:
            yield dict.fromkeys(self.recipes, torch.cat([self.images[own] for own in chosen]))


class Files:
    """Images in files, decoded while the device works on earlier batches.

    The random resized crops of a recipe are cut when the images are decoded, from their full resolution, so `recipes`
    hold only what is left to do. Crops come from a stream of each recipe of their own, drawn batch by batch on the CPU:
    they depend on the trial's seed and the epoch, and on nothing that happens while files are read. A recipe without
    such crops starts from the centres of the images, as evaluation does.
    """

    rows_on = torch.device("cpu")

    def __init__(
        self,
        images: ImageFiles,
        recipes: Mapping[str, augment.Recipe],
        device: torch.device,
        draws: Sequence[Draw],
        ranks: Ranks,
    ) -> None:
        self.images, self.device, self.draws, self.ranks = images, device, draws, ranks
        self.crops = {name: recipe.crops for name, recipe in recipes.items()}
        self.recipes = {name: recipe.after_crops() for name, recipe in recipes.items()}

    def batches(self, rows: Rows, epoch: int) -> Iterator[dict[str, Tensor]]:
        """For each batch of `rows` what each recipe starts from.

        That is (D*n, C, H, W) uint8, or (V, D*n, C, H, W) where its V views are crops. Raises InputError if a file
        cannot be read.
        """
        generators = {
            name: [streams.generator(stream, f"crops of {name}", epoch) for stream, _ in self.draws]
            for name in self.crops
        }
        requests = ((torch.cat(list(chosen)), self._draw(chosen, generators)) for chosen in rows)
        for crops in self.images.decoded(requests, pin=self.device.type == "cuda"):
            on_device = iter([crop.to(self.device, non_blocking=True) for crop in crops])
            yield {
                name: torch.stack([next(on_device) for _ in views]) if views else next(on_device)
                for name, views in self.crops.items()
            }

    def _draw(self, rows: Sequence[Tensor], generators: Mapping[str, list[torch.Generator]]) -> list[Crops]:
        """The crops of every view of every recipe, in order."""
        found: list[Crops] = []
        for name, views in self.crops.items():
            drawn = [self._draw_view(crop, rows, generators[name]) for crop in views]
            found += drawn or [self.images.centre(torch.cat(list(rows)))]
        return found

    def _draw_view(
        self, crop: augment.RandomResizedCrop, rows: Sequence[Tensor], generators: Sequence[torch.Generator]
    ) -> Crops:
        size, boxes = self.images.size, []
        for own, generator, (_, strength) in zip(rows, generators, self.draws, strict=True):
            # Drawn for the images of all processes, so that each gets the crops that it would get on one device.
            whole = len(own) * self.ranks.size
            uniform = torch.rand(whole, crop.draws(size), generator=generator)[self.ranks.part(whole)]
            boxes.append(crop.boxes(uniform, torch.full((len(own),), strength), self.images.extents[own]))
        return Crops(torch.cat(boxes), crop.side(size))


def source(
    images: Tensor | ImageFiles,
    recipes: Mapping[str, augment.Recipe],
    device: torch.device,
    draws: Sequence[Draw],
    ranks: Ranks = Ranks(),  # noqa: B008 (immutable)
) -> Memory | Files:
    """Where the batches of a pack come from; D `draws` are told apart, by their place in each batch.

    Rows are those of this process alone, of batches that are equally large on all `ranks`.
    """
    if isinstance(images, ImageFiles):
        return Files(images, recipes, device, draws, ranks)
    return Memory(images, recipes, device)
