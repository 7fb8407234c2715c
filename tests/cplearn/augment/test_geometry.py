"""Crops, flip, affine map and blur against torchvision at fixed parameters, and the distribution of these."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision.transforms import RandomResizedCrop as TorchvisionCrop
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from cplearn.augment.geometry import (
    GaussianBlur,
    HorizontalFlip,
    LocalCrop,
    RandomAffine,
    RandomCrop,
    RandomResizedCrop,
)
from cplearn.augment.transform import Transform

N = 48
# torchvision computes the same numbers in another order of operations.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-6}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(size: int, channels: int = 3, dtype: torch.dtype = torch.float32, n: int = N) -> Tensor:
    return torch.rand(n, channels, size, size, generator=generator(1), dtype=dtype)


def draw(transform: Transform, n: int = N, size: int = 32, strength: float = 1.0) -> dict[str, Tensor]:
    u = torch.rand(n, transform.draws(size), generator=generator())
    return transform.parameters(u, torch.tensor(float(strength)), size)


def each(images: Tensor, change: object, *params: Tensor) -> Tensor:
    rows = zip(images, *(p.tolist() for p in params), strict=True)
    return torch.stack([change(image, *values) for image, *values in rows])  # type: ignore[operator]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3)])
def test_resized_crop(size: int, channels: int, interpolation: str, dtype: torch.dtype) -> None:
    transform = RandomResizedCrop(interpolation=interpolation)  # type: ignore[arg-type]
    images, params = noise(size, channels, dtype), draw(transform, size=size)
    expected = each(
        images,
        lambda image, box: F.resized_crop(
            image, *map(int, box), [size, size], InterpolationMode(interpolation), antialias=True
        ).clamp(0, 1),
        params["box"],
    )
    torch.testing.assert_close(transform.apply(images, params), expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("size", "small", "channels"), [(8, 4, 1), (32, 12, 3), (32, 14, 3), (16, 16, 1)])
def test_local_crop(size: int, small: int, channels: int, dtype: torch.dtype) -> None:
    """Enlarged and reduced crops alike."""
    transform = LocalCrop(size=small)
    images, params = noise(size, channels, dtype), draw(transform, size=size)
    expected = each(
        images,
        lambda image, box: F.resized_crop(
            image, *map(int, box), [small, small], InterpolationMode.BICUBIC, antialias=True
        ).clamp(0, 1),
        params["box"],
    )
    lengths = params["box"][:, 2:]
    assert (lengths > small).any() or small == size
    assert (lengths < small).any()
    torch.testing.assert_close(transform.apply(images, params), expected, rtol=0, atol=TOLERANCE[dtype])


def test_resized_crop_of_bytes_by_pil() -> None:
    """PIL rounds to bytes after each of its two passes: up to 2 steps of 255.

    It also clips after each pass, we only at the end; these pixels stay clear of both ends.
    """
    pixels = torch.randint(64, 192, (N, 32, 32, 3), generator=generator(2), dtype=torch.uint8)
    params = draw(RandomResizedCrop())
    expected = each(
        pixels,
        lambda image, box: F.pil_to_tensor(
            F.resized_crop(Image.fromarray(image.numpy()), *map(int, box), [32, 32], InterpolationMode.BICUBIC)
        ),
        params["box"],
    )
    ours = RandomResizedCrop().apply(pixels.movedim(-1, 1) / 255, params)
    assert (ours * 255 - expected).abs().max() <= 2


def test_resized_crop_samples_like_torchvision() -> None:
    n = 3000
    with torch.random.fork_rng():  # torchvision draws from the global state
        torch.manual_seed(0)
        image = torch.zeros(3, 32, 32)
        theirs = torch.tensor([TorchvisionCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(n)])
    ours = draw(RandomResizedCrop(), n)["box"]
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3
    areas = (box[:, 2] * box[:, 3] for box in (ours, theirs))
    assert stats.ks_2samp(*areas).pvalue > 1e-3


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_resized_crop_stays_inside(strength: float) -> None:
    box = draw(RandomResizedCrop(), 2000, strength=strength)["box"]
    assert (box[:, :2] >= 0).all()
    assert (box[:, 2:] >= 1).all()
    assert (box[:, :2] + box[:, 2:] <= 32).all()
    # Rounding a side moves it by half a pixel at most.
    assert (box[:, 2:].prod(1).sqrt() >= 32 * 0.08 ** (strength / 2) - 0.6).all()


def test_resized_crop_falls_back_to_the_largest_box_of_the_ratio() -> None:
    box = draw(RandomResizedCrop(scale=(1, 1), ratio=(4, 5)))["box"]
    assert torch.equal(box[:, 2:], torch.tensor([8.0, 32]).expand(N, 2))


@pytest.mark.parametrize(("height", "width"), [(500, 375), (60, 500), (90, 20)])
def test_boxes_of_oblong_images_are_sampled_like_torchvision(height: int, width: int) -> None:
    n = 2000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.zeros(1, height, width)
        theirs = torch.tensor([TorchvisionCrop.get_params(image, [0.25, 1.0], [3 / 4, 4 / 3]) for _ in range(n)])
    crop = RandomResizedCrop(scale=(0.25, 1.0))
    u = torch.rand(n, crop.draws(0), generator=generator())
    box = crop.boxes(u, 1.0, torch.tensor([height, width]).expand(n, 2))
    for column in (2, 3):
        assert stats.ks_2samp(box[:, column], theirs[:, column]).pvalue > 1e-3
    assert (box[:, :2] >= 0).all()
    assert (box[:, :2] + box[:, 2:] <= torch.tensor([height, width])).all()


@pytest.mark.parametrize(("size", "strength"), [(32, 1.0), (32, 1.7), (8, 1.0)])
def test_crop_is_pad_and_crop(size: int, strength: float) -> None:
    images, pad = noise(size), round(4 * strength)
    params = draw(RandomCrop(4), size=size, strength=strength)
    expected = each(
        images,
        lambda image, s: F.crop(F.pad(image, [pad], padding_mode="reflect"), s[0] + pad, s[1] + pad, size, size),
        params["shift"],
    )
    assert torch.equal(RandomCrop(4).apply(images, params), expected)


def test_crop_reflects_padding_wider_than_the_image() -> None:
    row = torch.arange(4.0).expand(1, 1, 4, 4) / 3
    moved = RandomCrop(8).apply(row, {"shift": torch.tensor([[0, -8]])})
    # ... 2 3 2 1 0 1 2 3 with the image's first pixel at the end: eight steps to the left of it stands 2.
    assert torch.equal(moved[0, 0, 0] * 3, torch.tensor([2.0, 1, 0, 1]))


def test_crop_shifts_are_uniform() -> None:
    shift = draw(RandomCrop(4), 8100)["shift"] + 4
    counts = (9 * shift[:, 0] + shift[:, 1]).bincount(minlength=81)
    assert len(counts) == 81
    assert stats.chisquare(counts).pvalue > 1e-3


def test_flip() -> None:
    images, params = noise(8), draw(HorizontalFlip(0.5))
    expected = each(images, lambda image, flip: F.horizontal_flip(image) if flip else image, params["chosen"])
    assert torch.equal(HorizontalFlip().apply(images, params), expected)


@pytest.mark.parametrize(("strength", "p"), [(0.0, 0.0), (0.5, 0.15), (1.0, 0.3), (2.0, 0.3)])
def test_flip_probability(strength: float, p: float) -> None:
    chosen = draw(HorizontalFlip(0.3), 2000, strength=strength)["chosen"]
    low, high = stats.binom.interval(0.999, 2000, p) if p else (0, 0)
    assert low <= chosen.sum() <= high


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (32, 3)])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_affine(size: int, channels: int, dtype: torch.dtype) -> None:
    transform = RandomAffine(degrees=40, translate=0.2, scale=(0.6, 1.5), shear=20)
    images, params = noise(size, channels, dtype), draw(transform, size=size)
    expected = each(
        images,
        lambda image, angle, shift, scale, shear: F.affine(
            image, angle, [size * s for s in shift], scale, [shear, 0.0], InterpolationMode.BILINEAR
        ),
        *(params[name] for name in ("angle", "translate", "scale", "shear")),
    )
    torch.testing.assert_close(transform.apply(images, params), expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("strength", [0.5, 2.0])
def test_affine_ranges(strength: float) -> None:
    params = draw(RandomAffine(degrees=15, translate=0.1, scale=(0.8, 1.25), shear=10), 2000, strength=strength)
    for name, bound in {"angle": 15.0, "translate": 0.1, "shear": 10.0}.items():
        assert 0.95 * bound * strength < params[name].abs().max() <= bound * strength + 1e-6
    scale = params["scale"].log() / torch.tensor(1.25).log()
    assert -strength - 1e-5 <= scale.min() < -0.9 * strength
    assert 0.9 * strength < scale.max() <= strength + 1e-5


@pytest.mark.parametrize("radius", [1, 4])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_blur(radius: int, dtype: torch.dtype) -> None:
    transform = GaussianBlur(radius=radius, sigma=(0.3, 2.0), p=1.0)
    images, params = noise(16, dtype=dtype), draw(transform)
    expected = each(images, lambda x, s: F.gaussian_blur(x, [2 * radius + 1] * 2, [s, s]), params["sigma"])
    torch.testing.assert_close(transform.apply(images, params), expected, rtol=0, atol=TOLERANCE[dtype])


def test_blur_ranges() -> None:
    params = draw(GaussianBlur(sigma=(0.5, 1.0), p=0.3), 2000, strength=2)
    low, high = stats.binom.interval(0.999, 2000, 0.3)
    assert low <= params["chosen"].sum() <= high
    assert 1 <= params["sigma"].min() < params["sigma"].max() < 2


def test_blur_of_no_strength_is_the_image() -> None:
    transform = GaussianBlur(p=1.0)
    images = noise(8)
    assert torch.equal(transform.apply(images, draw(transform, strength=0)), images)


@pytest.mark.parametrize("transform", [HorizontalFlip(), GaussianBlur()])
def test_only_chosen_images_change(transform: HorizontalFlip | GaussianBlur) -> None:
    """The two ways of `change_chosen`, on a CPU and on an accelerator, agree exactly."""
    images, params = noise(8), draw(transform, size=8)
    everywhere = transform.apply(images, params | {"chosen": torch.ones(N, dtype=torch.bool)})
    expected = torch.where(params["chosen"][:, None, None, None], everywhere, images)
    assert 0 < params["chosen"].sum() < N
    assert torch.equal(transform.apply(images, params), expected)
