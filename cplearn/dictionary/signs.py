"""The codes of a dictionary: random signs, one byte each, drawn once, and walked over a block of codes at a time."""

from __future__ import annotations

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
    n, _ = embeddings.shape
    best = embeddings.new_full((n,), -math.inf)
    index = torch.zeros(n, dtype=torch.long, device=embeddings.device)
    start = 0
    for block in Blocks(dictionary, n, Scratch(embeddings)):
        value, position = product(embeddings, block).max(-1)
        better = value > best
        best, index = torch.where(better, value, best), torch.where(better, position + start, index)
        start += len(block)
    return index


def block_size(rows: int, device: torch.device) -> int:
    """Codes a block: its few rows x block matrices should stay in a core's cache, or fill an accelerator."""
    budget = 2**18 if device.type == "cpu" else 2**24
    return max(256, budget // rows)


class Scratch:
    """Memory by name that each block uses again.

    To allocate it for every block costs a CPU more than some of the arithmetic, since the system clears every page.
    """

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.buffers: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        """A tensor of this shape with the precision and device of `like`; it overwrites the last one of this name."""
        size = math.prod(shape)
        if name not in self.buffers or self.buffers[name].numel() < size:
            self.buffers[name] = self.like.new_empty(size)
        return self.buffers[name][:size].view(shape)


class Blocks:
    """The codes of a dictionary (c, f) as floating-point blocks (b, f), each of which overwrites the one before it.

    `rows` is the number of embeddings that are multiplied with a block, on which its size depends.
    """

    def __init__(self, dictionary: Tensor, rows: int, scratch: Scratch) -> None:
        self.dictionary, self.scratch = dictionary, scratch
        self.size = block_size(rows, dictionary.device)

    def __iter__(self) -> Iterator[Tensor]:
        for signs in self.dictionary.split(self.size):
            yield self.scratch("codes", *signs.shape).copy_(signs)
