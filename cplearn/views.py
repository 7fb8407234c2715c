"""The views that a trial is trained on, made on its device of images in memory or decoded ahead from their files."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from cplearn import augment, streams
from cplearn.config.trial import TrialSettings
from cplearn.data import Split
from cplearn.data.image_files import Crops, ImageFiles
from cplearn.distributed import ALONE, Ranks

Views = list[Tensor]
"""The views of a batch in [0, 1], one tensor (V*n, C, H, W) an image size: the global views, then the local crops."""

VALUES_AHEAD = 2**15
"""Values of images whose views are made in one go: for small images, calls cost less one after the other than with a
training step in between, whose data drives theirs out of the caches."""


class TrainingViews:
    """The augmented batches of a trial, made on the device that trains it.

    Order, views and local crops are drawn from streams of their own, so that one leaves the draws of the others alone.
    Of several processes, each makes the views of its part of every batch from the draws of the whole batch.
    """

    def __init__(self, trial: TrialSettings, split: Split, device: torch.device, ranks: Ranks = ALONE) -> None:
        self.batch_size, self.n_images, self.device = trial.batch_size, len(split.images), device
        self.dtype = torch.float64 if trial.precision == "float64" else torch.float32
        self.stream, self.strength = streams.stream(trial), trial.augment.strength
        self.part = ranks.part(trial.batch_size) if trial.method.trains else slice(None)
        recipes = {"views": augment.RECIPES[trial.augment.recipe].with_crop_scale(trial.augment.crop_scale_min)}
        if trial.augment.local_views:
            size = local_size(trial, split.images.shape[-1])
            scale = (trial.augment.local_scale_min, trial.augment.local_scale_max)
            recipes["local"] = augment.local_crops(recipes["views"], trial.augment.local_views, size, scale)
        self.source = BatchSource(split.images, recipes, device, self.stream, self.strength, ranks)
        self.labels = split.labels.to(self.source.rows_on)
        self.batches_ahead = max(1, VALUES_AHEAD // (trial.batch_size * math.prod(split.images.shape[1:])))

    def epoch(self, epoch: int) -> Iterator[tuple[Views, Tensor]]:
        """Views of this process and labels (n,) of all processes, for each batch of an epoch."""
        batches = self._batches(epoch)
        while made := list(itertools.islice(batches, self.batches_ahead)):
            yield from made

    def _batches(self, epoch: int) -> Iterator[tuple[Views, Tensor]]:
        order = torch.randperm(self.n_images, generator=streams.generator(self.stream, "order", epoch))
        n_batches = self.n_images // self.batch_size
        rows = order[: n_batches * self.batch_size].to(self.source.rows_on).split(self.batch_size)
        generators = {name: streams.generator(self.stream, name, epoch, self.device) for name in self.source.recipes}
        batches = self.source.batches([batch[self.part] for batch in rows], epoch)
        for batch, images in zip(rows, batches, strict=True):
            views = []
            for name, recipe in self.source.recipes.items():
                draws = recipe.sample(self.batch_size, images[name].shape[-1], generators[name])[self.part]
                views.append(recipe.apply(images[name], draws, self.strength, self.dtype).flatten(0, 1))
            yield views, self.labels[batch].to(self.device)


def local_size(trial: TrialSettings, image_size: int) -> int:
    """Side in pixels of a trial's local crops."""
    return trial.augment.local_size or image_size // 2


class BatchSource:
    """Where batches of images come from: a tensor on the device, or files, decoded while the device works.

    Of files, the random resized crops of a recipe are cut when the images are decoded, from their full resolution, so
    `recipes` hold only what is left to do. These crops are drawn on the CPU from a stream of each recipe. A recipe
    without such crops starts from the centres of the images, as evaluation does. The rows of batches, which are to lie
    on `rows_on`, are those of this process alone, of batches that are equally large on all `ranks`.
    """

    def __init__(
        self,
        images: Tensor | ImageFiles,
        recipes: Mapping[str, augment.Recipe],
        device: torch.device,
        stream: int,
        strength: float = 1.0,
        ranks: Ranks = ALONE,
    ) -> None:
        in_files = isinstance(images, ImageFiles)
        self.images = images if isinstance(images, ImageFiles) else images.to(device)
        self.crops = {name: recipe.crops for name, recipe in recipes.items()}
        self.recipes = {name: recipe.after_crops() if in_files else recipe for name, recipe in recipes.items()}
        self.device, self.rows_on = device, torch.device("cpu") if in_files else device
        self.stream, self.strength, self.ranks = stream, strength, ranks

    def batches(self, rows: Sequence[Tensor], epoch: int) -> Iterator[dict[str, Tensor]]:
        """For each batch of `rows` (n,) the images that each recipe starts from: (n, C, H, W) uint8, or (V, n, C, H, W)
        where its V views are crops of files. Raises InputError if a file cannot be read."""
        if isinstance(self.images, Tensor):
            for batch in rows:
                yield dict.fromkeys(self.recipes, self.images[batch])
            return
        generators = {name: streams.generator(self.stream, f"crops of {name}", epoch) for name in self.crops}
        requests = ((batch, self._draw(self.images, batch, generators)) for batch in rows)
        for crops in self.images.decoded(requests, pin=self.device.type == "cuda"):
            on_device = iter([crop.to(self.device, non_blocking=True) for crop in crops])
            yield {
                name: torch.stack([next(on_device) for _ in views]) if views else next(on_device)
                for name, views in self.crops.items()
            }

    def _draw(self, images: ImageFiles, rows: Tensor, generators: Mapping[str, torch.Generator]) -> list[Crops]:
        whole = len(rows) * self.ranks.size
        drawn: list[Crops] = []
        for name, crops in self.crops.items():
            if not crops:
                drawn.append(images.centre(rows))
            for crop in crops:
                # Drawn for the images of all processes, so that each gets the crops that it would get on one device.
                uniform = torch.rand(whole, crop.uniforms, generator=generators[name])[self.ranks.part(whole)]
                boxes = crop.boxes(uniform, self.strength, images.extents[rows])
                drawn.append(Crops(boxes, crop.side(images.size)))
        return drawn
