"""Random streams by name: every draw of a trial comes from a generator that depends on its seed and purpose alone.

Because a stream is a function of (seed, purpose, epoch), a resumed trial needs no saved generator state, and trials of
one seed see the same batches and views whatever their other settings (common random numbers).
"""

import hashlib
import json

import numpy as np
import torch

from cplearn.config.trial import TrialSettings


def stream(trial: TrialSettings) -> int:
    """The number that all of a trial's draws derive from.

    With `common_random_numbers` it is the seed; without, it depends on every setting that differs from its default.
    """
    if trial.common_random_numbers:
        return trial.seed
    text = json.dumps(trial.identity(), sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _entropy(stream: int, purpose: str, epoch: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([stream, int.from_bytes(purpose.encode(), "big"), epoch])


def generator(stream: int, purpose: str, epoch: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator on `device` for one purpose ("init", "order", "views", ...) and epoch."""
    seed = int(_entropy(stream, purpose, epoch).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(seed)


def numpy_generator(stream: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(_entropy(stream, purpose, 0))
