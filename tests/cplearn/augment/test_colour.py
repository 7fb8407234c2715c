"""Transforms of pixel values against torchvision at fixed parameters, and the distribution of those parameters."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from cplearn.augment.colour import ColourJitter, GaussianNoise, Grayscale, Intensity, Solarise
from cplearn.augment.transform import Transform

N = 48
# torchvision computes the same numbers in another order of operations, and the hue of any image in float32.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5}
ORDERS = list(permutations(range(4)))  # 3 is the hue


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(channels: int = 3, dtype: torch.dtype = torch.float32, n: int = N) -> Tensor:
    images = torch.rand(n, channels, 8, 8, generator=generator(1), dtype=dtype)
    # Grey, black, white and equal channels are where a hue is undefined or tied.
    images[0, :, :2], images[0, :, 2:4], images[0, :, 4:6] = images[0, :1, :2].clone(), 0, 1
    images[1, -1] = images[1, 0]
    return images


def draw(transform: Transform, n: int = N, strength: float = 1.0, size: int = 8) -> dict[str, Tensor]:
    u = torch.rand(n, transform.draws(size), generator=generator())
    return transform.parameters(u, torch.tensor(strength), size)


def within_binomial(chosen: Tensor, p: float) -> bool:
    low, high = stats.binom.interval(0.999, len(chosen), p)
    return bool(low <= chosen.sum() <= high)


def jitter_by_torchvision(image: Tensor, order: tuple[int, ...], factors: list[float], hue: float) -> Tensor:
    steps = [F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue]
    for kind in order:
        image = steps[kind](image, [*factors, hue][kind])
    return image


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_in_every_order(channels: int, dtype: torch.dtype) -> None:
    transform, n = ColourJitter(0.8, 0.8, 0.8, 0.5, p=1.0), 2 * len(ORDERS)
    images, params, orders = noise(channels, dtype, n), draw(transform, n), ORDERS * 2
    params["order"] = torch.tensor([[kind for kind in order if kind != 3] for order in orders])
    params["before_hue"] = torch.tensor([order.index(3) for order in orders])
    rows = zip(images, orders, params["factors"].tolist(), params["hue"].tolist(), strict=True)
    expected = torch.stack([jitter_by_torchvision(*row) for row in rows])
    torch.testing.assert_close(transform.apply(images, params), expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_jitter_ranges(strength: float) -> None:
    n = 4000
    params = draw(ColourJitter(0.4, 0.6, 0.2, 0.3, p=0.8), n, strength)
    assert within_binomial(params["chosen"], 0.8)
    for column, half in enumerate((0.4, 0.6, 0.2)):
        low, high = max(0, 1 - half * strength), 1 + half * strength
        assert stats.kstest(params["factors"][:, column], stats.uniform(low, high - low).cdf).pvalue > 1e-3
    bound = min(0.3 * strength, 0.5)
    assert stats.kstest(params["hue"], stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-3


def test_jitter_orders_are_uniform() -> None:
    params = draw(ColourJitter(), 2400)
    pairs = zip(params["order"].tolist(), params["before_hue"].tolist(), strict=True)
    counts = np.zeros(len(ORDERS))
    for order, before in pairs:
        counts[ORDERS.index((*order[:before], 3, *order[before:]))] += 1
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_grayscale(dtype: torch.dtype) -> None:
    images = noise(dtype=dtype)
    ours = Grayscale().apply(images, draw(Grayscale(1.0)))
    torch.testing.assert_close(ours, F.rgb_to_grayscale(images, 3), rtol=0, atol=TOLERANCE[dtype])


def test_grayscale_by_half() -> None:
    images = noise()
    ours = Grayscale().apply(images, draw(Grayscale(1.0), strength=0.5))
    torch.testing.assert_close(ours, (images + F.rgb_to_grayscale(images, 3)) / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_solarise(threshold: float) -> None:
    images = noise()
    ours = Solarise().apply(images, draw(Solarise(threshold, 1.0)))
    assert torch.equal(ours, F.solarize(images, threshold))


def test_solarise_splits_bytes_in_the_middle() -> None:
    bytes_ = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    ours = Solarise().apply(bytes_ / 255, draw(Solarise(p=1.0), 1))
    torch.testing.assert_close(ours * 255, F.solarize(bytes_, 128).float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("strength", "threshold"), [(0.0, 1.0), (0.5, 0.8), (1.0, 0.6), (2.0, 0.2)])
def test_solarise_threshold(strength: float, threshold: float) -> None:
    params = draw(Solarise(0.6, 0.2), 2000, strength)
    torch.testing.assert_close(params["threshold"], torch.tensor(threshold))
    assert within_binomial(params["chosen"], 0.2)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_intensity(dtype: torch.dtype) -> None:
    transform = Intensity(gain=(0.5, 2.0))
    images, params = noise(1, dtype), draw(transform)
    rows = zip(images, params["gain"].tolist(), strict=True)
    expected = torch.stack([F.adjust_gamma(image, 1.0, gain) for image, gain in rows])
    torch.testing.assert_close(transform.apply(images, params), expected, rtol=0, atol=TOLERANCE[dtype])


def test_intensity_ranges() -> None:
    gain = draw(Intensity(gain=(0.5, 1.5)), 2000, strength=2)["gain"]
    assert stats.kstest(gain, stats.uniform(0.25, 2.0).cdf).pvalue > 1e-3


def test_noise_is_normal() -> None:
    noise = draw(GaussianNoise(std=(0.1, 0.1)), 200, strength=0.5)["noise"]
    assert noise.shape == (200, 1, 8, 8)
    assert stats.kstest(noise.flatten(), stats.norm(0, 0.05).cdf).pvalue > 1e-3


def test_noise_is_added_and_clipped() -> None:
    images, params = noise(), draw(GaussianNoise())
    expected = np.clip(images.numpy() + params["noise"].numpy(), 0, 1)
    np.testing.assert_array_equal(GaussianNoise().apply(images, params).numpy(), expected)


def test_noise_of_extreme_numbers_is_finite() -> None:
    u = torch.tensor([0.0, 1 - 2**-24]).repeat_interleave(65).view(2, 65)
    for strength in (0.0, 2.0):
        assert GaussianNoise().parameters(u, torch.tensor(strength), 8)["noise"].isfinite().all()


def test_noise_std_range() -> None:
    std = draw(GaussianNoise(std=(0.05, 0.1)), 500, size=32)["noise"].std((1, 2, 3))
    assert 0.045 < std.min() < 0.055
    assert 0.095 < std.max() < 0.11


@pytest.mark.parametrize("transform", [ColourJitter(p=0.5), Grayscale(0.5), Solarise(p=0.5)])
def test_only_chosen_images_change(transform: ColourJitter | Grayscale | Solarise) -> None:
    """The two ways of `change_chosen`, on a CPU and on an accelerator, agree exactly."""
    images, params = noise(), draw(transform)
    before = images.clone()
    everywhere = transform.apply(images, params | {"chosen": torch.ones(N, dtype=torch.bool)})
    expected = torch.where(params["chosen"][:, None, None, None], everywhere, images)
    assert 0 < params["chosen"].sum() < N
    assert torch.equal(transform.apply(images, params), expected)
    assert torch.equal(images, before)


@pytest.mark.parametrize("transform", [ColourJitter(0, 0, 0.9, 0.5, p=1), Grayscale(1)])
def test_one_channel_has_no_colour(transform: ColourJitter | Grayscale) -> None:
    images = noise(1)
    assert torch.equal(transform.apply(images, draw(transform)), images)
