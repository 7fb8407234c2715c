"""Small images for tests, written as people keep them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LONG_AGO = 1_000_000_000 * 10**9
"""A modification time, in nanoseconds, from which unchanged files are not read again."""


def noise(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    """A colour image (H, W, 3) of noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    os.utime(path, ns=(LONG_AGO, LONG_AGO))


def fill(folder: Path, *names: str) -> Path:
    """One image of noise under each name, the seeds from 0."""
    for seed, name in enumerate(names):
        save(folder / name, noise(seed))
    return folder
