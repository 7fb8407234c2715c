"""CPLearn's loss over a frozen dictionary of codes: materialised for small dictionaries, streamed for large ones.

With n images in V views and c codes, the materialised loss holds several V*n x c matrices. The streamed one walks over
blocks of codes twice: first for the normaliser of every row, then for loss and gradient together. A block sees all
rows of the batch, so prior matching is exact. Nothing of size c is held but the dictionary itself, one byte a sign.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cplearn.dictionary.products import product


def is_streamed(codes: int, length: int) -> bool:
    """Whether a dictionary is streamed unless it is said: where that is about as fast as the other way on a CPU.

    Streaming computes the logits twice, which costs the more the longer the codes are; the other way writes and reads
    large matrices, which costs the more the more codes there are. So 4,096 codes are streamed at a length of 128, and
    110,592 at 384 (`make bench`). A fixed rule, because the two ways round differently.
    """
    return 512 * codes >= length**3


def rademacher(codes: int, length: int, generator: torch.Generator) -> Tensor:
    """(codes, length) independent fair signs, int8, from a CPU generator."""
    return torch.randint(0, 2, (codes, length), generator=generator, dtype=torch.int8).mul_(2).sub_(1)


def losses(
    h: Tensor,
    dictionary: Tensor,
    beta: Tensor,
    *,
    prior: str = "reverse",
    symmetric: bool = True,
    stream: bool | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of K members and its terms, each (K,); only the loss carries gradients if it is streamed.

    h: (K, V, n, f) embeddings divided by the temperature; dictionary: (K, c, f) signs, int8; beta: (K,). Symmetric
    means over all ordered pairs of views and the mean prior term of all views; otherwise Eq. 7 as printed, first view
    against second. `stream` forces one of the two ways. Terms: `invariance`, `prior` (see `prior_matching`) and
    `batch_perplexity`, the number of codes that the batch's mean assignment amounts to.
    """
    if stream is None:
        stream = is_streamed(*dictionary.shape[1:])
    if stream:
        loss, agree, matched, perplexity = _Streamed.apply(h, dictionary, beta, prior, symmetric)
    else:
        views, n = h.shape[1:3]
        logits = product(h.flatten(1, 2), dictionary.to(h.dtype))
        log_p = F.log_softmax(logits, dim=-1).unflatten(1, (views, n))
        log_mean = log_usage(log_p)
        agree = invariance(log_p, symmetric)
        counted = log_mean if symmetric else log_mean[:, :1]
        matched = prior_matching(counted, prior).mean(1)
        loss = beta * agree + matched
        perplexity = _entropy(log_mean.detach()).exp().mean(1)
    return loss, {"invariance": agree, "prior": matched, "batch_perplexity": perplexity}


def cross_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """-(1/n) Σ_i Σ_j p_ij log q_ij with gradients through both; (..., n, c) twice to (...)."""
    return -(log_p.exp() * log_q).sum(-1).mean(-1)


def invariance(log_p: Tensor, symmetric: bool = True) -> Tensor:
    """First term of Eq. 7 without β, the mean over `pairs` of views; log_p: (K, V, n, c) to (K,)."""
    each = [cross_entropy(log_p[:, a], log_p[:, b]) for a, b in pairs(log_p.shape[1], symmetric)]
    return torch.stack(each).mean(0)


def pairs(views: int, symmetric: bool) -> list[tuple[int, int]]:
    """Which view is p and which p' in Eq. 7: every ordered pair, or the first against the second as printed."""
    return list(itertools.permutations(range(views), 2)) if symmetric else [(0, 1)]


def log_usage(log_p: Tensor) -> Tensor:
    """Logarithm of the batch's mean assignment log p̄_j, finite even where p̄_j underflows; (..., n, c) to (..., c)."""
    return torch.logsumexp(log_p, dim=-2) - math.log(log_p.shape[-2])


def prior_matching(log_mean: Tensor, direction: str) -> Tensor:
    """Distance of the mean assignment from the uniform prior q_j = 1/c; (..., c) to (...).

    forward: -Σ_j q_j log p̄_j, second term of Eq. 7, at least log c. reverse: Σ_j p̄_j log(c p̄_j), at least 0.
    """
    if direction == "forward":
        return -log_mean.mean(-1)
    return (log_mean.exp() * (log_mean + math.log(log_mean.shape[-1]))).sum(-1)


def perplexity(log_p: Tensor) -> Tensor:
    """The number of codes that the batch's mean assignment amounts to, mean over views; (K, V, n, c) to (K,)."""
    return _entropy(log_usage(log_p)).exp().mean(1)


def nearest(embeddings: Tensor, dictionary: Tensor) -> Tensor:
    """Index of the code with the largest logit, the first of equals; (K, n, f) and (K, c, f) to (K, n)."""
    embeddings = embeddings.detach()
    members, n, _ = embeddings.shape
    best = embeddings.new_full((members, n), -math.inf)
    index = torch.zeros(members, n, dtype=torch.long, device=embeddings.device)
    start = 0
    for part in _Blocks(dictionary, _block_size(members * n, embeddings.device), _Scratch(embeddings)):
        value, at = product(embeddings, part).max(-1)
        better = value > best
        best, index = torch.where(better, value, best), torch.where(better, at + start, index)
        start += part.shape[1]
    return index


def _entropy(log_mean: Tensor) -> Tensor:
    return -(log_mean.exp() * log_mean).sum(-1)


def _block_size(rows: int, device: torch.device) -> int:
    """Codes a block: its few rows x block matrices should stay in a core's cache, or fill an accelerator."""
    budget = 2**18 if device.type == "cpu" else 2**24
    return max(256, budget // rows)


class _Streamed(torch.autograd.Function):
    """Loss, terms and, computed along with them, the gradient with respect to h."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, dictionary: Tensor, beta: Tensor, prior: str, symmetric: bool
    ) -> tuple[Tensor, ...]:
        terms, gradient = _stream(h.detach(), dictionary, beta, prior, symmetric, h.requires_grad)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(*terms)
        agree, matched, perplexity = terms
        return beta * agree + matched, agree, matched, perplexity

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0][:, None, None, None], None, None, None, None


def _stream(
    h: Tensor, dictionary: Tensor, beta: Tensor, prior: str, symmetric: bool, needed: bool
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Terms (invariance, prior, perplexity), each (K,), and the gradient of the loss, like h: (K, V, n, f).

    With X = dL/d log p, the gradient of the logits is X - p * (row sum of X). X has a part p * Y, which is formed block
    by block, and what p itself adds to the partner's row, which is a constant times p. So the gradient of h needs two
    sums over all codes, that of p * Y and that of p, each times the codes.
    """
    members, views, n, f = h.shape
    codes, rows = dictionary.shape[1], views * n
    flat, scratch = h.flatten(1, 2), _Scratch(h)
    blocks = _Blocks(dictionary, _block_size(members * rows, h.device), scratch)
    normaliser = _log_normaliser(flat, blocks)

    together = pairs(views, symmetric)
    partners = [[b for a, b in together if a == view] for view in range(views)]
    counted = views if symmetric else 1  # views whose prior term counts
    scale = beta[:, None, None] / (n * len(together))
    agree, matched, entropy = h.new_zeros(members), h.new_zeros(members), h.new_zeros(members, views)
    # For p and for p * Y: their products with the codes, and the row sums of the latter.
    products, row_sum = h.new_zeros(members, 2 * rows, f), h.new_zeros(members, rows, 1)
    for part in blocks:
        width = part.shape[1]
        log_p = product(flat, part).sub_(normaliser).unflatten(1, (views, n))
        both = scratch("p and p * Y", members, 2, views, n, width)
        p, x = both.unbind(1)
        torch.exp(log_p, out=p)
        # Where the mean underflows, so does in the reverse direction all that it is multiplied with.
        smallest = torch.finfo(h.dtype).tiny
        log_mean = log_usage(log_p) if prior == "forward" else p.mean(2).clamp_min_(smallest).log_()
        matched += _prior_part(log_mean[:, :counted], prior, codes)
        entropy += _entropy(log_mean)
        for a, b in together:
            agree -= torch.linalg.vecdot(p[:, a], log_p[:, b]).sum(1) / (n * len(together))
        if not needed:
            continue
        for a in range(views):
            slope = torch.zeros_like(log_mean[:, a, None])
            if prior == "reverse" and a < counted:
                slope = (log_mean[:, a, None] + (math.log(codes) + 1)) / (n * counted)
            for b in partners[a]:
                slope = torch.addcmul(slope, log_p[:, b], scale, value=-1, out=x[:, a])
            torch.mul(slope, p[:, a], out=x[:, a])
            if prior == "forward" and a < counted:
                share = torch.sub(log_p[:, a], log_mean[:, a, None], out=scratch("share", members, n, width)).exp_()
                x[:, a].sub_(share, alpha=1 / (codes * n * counted))
        products += product(both.view(members, 2 * rows, width), part.mT)
        row_sum += x.reshape(members, rows, width).sum(-1, keepdim=True)
    mean_code, gradient = products.view(members, 2, views, n, f).unbind(1)
    row_sum = row_sum.view(members, views, n, 1)
    gradient = gradient - row_sum * mean_code
    for a, b in together:
        # Of p in the partner's row: the mean code of view a, whose row sum, 1, falls on that of view b.
        gradient[:, b] -= scale * (mean_code[:, a] - mean_code[:, b])
    return (agree, matched, entropy.exp().mean(1)), gradient


def _prior_part(log_mean: Tensor, prior: str, codes: int) -> Tensor:
    """What a block of codes adds to the prior term, mean over the views; log_mean: (K, V, block) to (K,)."""
    if prior == "forward":
        return -log_mean.sum(-1).mean(1) / codes
    return (log_mean.exp() * (log_mean + math.log(codes))).sum(-1).mean(1)


def _log_normaliser(flat: Tensor, blocks: _Blocks) -> Tensor:
    """log Σ_j exp(h_i . w_j) of every row; (K, rows, f) to (K, rows, 1)."""
    # In double precision: hundreds of partial sums would lose digits that the loss needs.
    total = torch.full((*flat.shape[:2], 1), -math.inf, dtype=torch.float64, device=flat.device)
    for part in blocks:
        logits = product(flat, part)
        most = logits.amax(-1, keepdim=True)
        total = torch.logaddexp(total, (logits.sub_(most).exp_().sum(-1, keepdim=True).log_() + most).double())
    return total.to(flat.dtype)


class _Scratch:
    """Memory by name, used anew by each block: to allocate it each time costs a CPU more than some of the arithmetic,
    since the system clears every page of it again."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.kept: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int) -> Tensor:
        size = math.prod(shape)
        if name not in self.kept or self.kept[name].numel() < size:
            self.kept[name] = self.like.new_empty(size)
        return self.kept[name][:size].view(shape)


class _Blocks:
    """The dictionary a block of codes at a time, (K, block, f), as floating-point numbers that the next overwrites."""

    def __init__(self, dictionary: Tensor, size: int, scratch: _Scratch) -> None:
        self.dictionary, self.size, self.scratch = dictionary, size, scratch

    def __iter__(self) -> Iterator[Tensor]:
        members, _, f = self.dictionary.shape
        for signs in self.dictionary.split(self.size, dim=1):
            yield self.scratch("codes", members, signs.shape[1], f).copy_(signs)
