"""What the evaluators do to their inputs first: check them, convert them, standardise them."""

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray

RESOLUTION = 1e-6
"""Spread relative to magnitude up to which numbers count as equal: some ten rounding errors of float32, so that the
noise which a collapsed network leaves on its outputs is not blown up to unit variance."""


class NonFiniteFeatures(ValueError):
    """Features or embeddings hold NaN or infinity; the message says which, and in how many rows."""


def finite(features: Array, what: str) -> Tensor:
    """features (n, F) as a tensor without gradient, on their device.

    Raises NonFiniteFeatures, and ValueError if there are no rows or no columns; `what` names the features.
    """
    tensor = torch.as_tensor(features).detach()
    if tensor.ndim != 2 or tensor.numel() == 0:
        raise ValueError(f"{what}: expected a filled matrix (images, features), not shape {tuple(tensor.shape)}")
    bad = int((~torch.isfinite(tensor)).any(dim=1).sum())
    if bad:
        raise NonFiniteFeatures(f"{what}: {bad} of {len(tensor)} rows hold NaN or infinity; the network has diverged")
    return tensor


def to_float64(features: Array, what: str) -> np.ndarray:
    """features (n, F) as float64 on the CPU; raises like `finite`."""
    return finite(features, what).cpu().double().numpy()


def to_indices(values: Array) -> np.ndarray:
    """Labels or cluster numbers (n,) as int64 on the CPU; raises ValueError if they are no whole numbers, or none."""
    array = torch.as_tensor(values).cpu().numpy()
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise ValueError(f"expected a filled vector of integers, not {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def standardise(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Each (n, F) less the mean of `train`, over the standard deviation of `train`; 0 where `train` is constant.

    A feature is constant if its standard deviation is at most RESOLUTION times its largest absolute value.
    """
    mean, std = train.mean(0), train.std(0)
    varies = std > RESOLUTION * np.abs(train).max(0)
    scale = np.where(varies, std, np.inf)
    results = [x - mean for x in (train, *others)]
    for result in results:
        # In place: raw pixels of a whole data set are gigabytes.
        result /= scale
    return results
