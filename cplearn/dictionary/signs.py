"""The codes of a dictionary: random signs, one byte each, drawn once, and walked over a block of codes at a time."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cplearn.dictionary.products import product


def rademacher(codes: int, length: int, generator: torch.Generator) -> Tensor:
    """Draw independent fair signs (codes, length), int8, from a generator on the CPU.

    >>> rademacher(2, 3, torch.Generator().manual_seed(0))
    tensor([[-1,  1,  1],
            [-1,  1,  1]], dtype=torch.int8)
    """
    return torch.randint(0, 2, (codes, length), generator=generator, dtype=torch.int8).mul_(2).sub_(1)


def nearest(embeddings: Tensor, dictionary: Tensor) -> Tensor:
    """Index (n,) of the code with the largest logit, the first of equals, for embeddings (n, f) and codes (c, f)."""
    embeddings = embeddings.detach()
    best = embeddings.new_full((len(embeddings),), -math.inf)
    index, start = torch.zeros_like(best, dtype=torch.long), 0
    for block in blocks(dictionary, embeddings):
        value, position = product(embeddings, block).max(-1)
        better = value > best
        best, index = torch.where(better, value, best), torch.where(better, position + start, index)
        start += len(block)
    return index


def block_size(rows: int, device: torch.device) -> int:
    """Codes a block: its few rows x block matrices should stay in a core's cache, or fill an accelerator."""
    budget = 2**18 if device.type == "cpu" else 2**24
    return max(256, budget // rows)


def blocks(dictionary: Tensor, rows: Tensor) -> Iterator[Tensor]:
    """The codes of a dictionary (c, f) as floating-point blocks (b, f) to multiply with embeddings (r, f).

    Each block overwrites the one before it: to allocate memory for every block costs a CPU more than some of the
    arithmetic, since the system clears every page.
    """
    size = min(block_size(len(rows), rows.device), len(dictionary))
    buffer = rows.new_empty(size, dictionary.shape[1])
    for signs in dictionary.split(size):
        yield buffer[: len(signs)].copy_(signs)
