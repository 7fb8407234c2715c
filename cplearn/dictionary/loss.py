"""CPLearn's loss over a frozen dictionary of codes: materialised for small dictionaries, streamed for large ones.

With n images in V views and c codes, the materialised loss holds several V*n x c matrices and leaves its gradient to
PyTorch. The streamed one computes its gradient along with it, by two walks over blocks of codes, and gives the same
numbers with 1/271 of the memory.

Streaming holds nothing of size c but the dictionary, one byte a sign. A block of codes sees all rows of the batch, so
the mean assignments are exact. For view a, image i and code w_j of c, with embeddings h^a_i:

    s^a_ij = h^a_i · w_j,    log p^a_ij = s^a_ij - log Z^a_i,    p̄^a_j = (1/n) Σ_i p^a_ij

The first walk finds the row normalisers Z^a_i = Σ_j exp s^a_ij. The second one adds up the loss, a sum over codes,

    L = -γ Σ_(a,b) Σ_i Σ_j p^a_ij log p^b_ij  +  (1/U) Σ_a R^a,    γ = β / (n · number of pairs)

over pairs (a, b) of views and the U views whose prior term R^a counts:

    reverse: R^a = Σ_j p̄^a_j log(c p̄^a_j)        forward: R^a = -(1/c) Σ_j log p̄^a_j

**Gradient.** Take X^a_ij = ∂L/∂ log p^a_ij first. In the first sum view a stands as p in the pairs (a, b) and as the
partner in the pairs (b, a); with ∂p = p ∂log p,

    X^a_ij = p^a_ij Y^a_ij - γ Σ_(b,a) p^b_ij

    Y^a_ij = -γ Σ_(a,b) log p^b_ij  +  reverse: (log p̄^a_j + log c + 1) / (n U)
                                       forward: -1 / (c n U p̄^a_j)

Through the softmax, ∂L/∂s^a_ij = X^a_ij - p^a_ij Σ_k X^a_ik. Times w_j and summed over j, with two sums over codes

    m^a_i = Σ_j p^a_ij w_j   (the mean code),      g^a_i = Σ_j p^a_ij Y^a_ij w_j

and y^a_i = Σ_j p^a_ij Y^a_ij, the gradient is (each p^b_i sums to 1, so each pair (b, a) adds -γ to the row sum of X)

    ∂L/∂h^a_i = g^a_i - y^a_i m^a_i - γ Σ_(b,a) (m^b_i - m^a_i)

So the second walk adds up m, g and y, and one product with the codes gives both m and g.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cplearn.dictionary import terms
from cplearn.dictionary.products import product
from cplearn.dictionary.signs import blocks


def is_streamed(codes: int, length: int) -> bool:
    """Whether the loss over so many codes of this length is streamed by default: where that is about as fast on a CPU.

    Streaming computes the logits twice, which costs the more the longer the codes are; the other way writes and reads
    large matrices (`make bench` measures both). The rule is fixed, because the two ways round differently.

    >>> is_streamed(4095, 128), is_streamed(4096, 128), is_streamed(110592, 384)
    (False, True, True)
    """
    return 512 * codes >= length**3


def dictionary_loss(
    h: Tensor,
    dictionary: Tensor,
    beta: float,
    *,
    prior: str = "reverse",
    symmetric: bool = True,
    stream: bool | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss β · invariance + prior and its terms; only the loss carries gradients if it is streamed.

    h: (V, n, f) embeddings divided by the temperature; dictionary: (c, f) signs, int8. Symmetric means over all ordered
    pairs of views and the mean prior term of all views; otherwise Eq. 7 as printed, first view against second. `stream`
    forces one of the two ways. Terms: `invariance`, `prior` (see `terms.prior_matching`) and `batch_perplexity`, the
    number of codes that the batch's mean assignment amounts to.
    """
    if is_streamed(*dictionary.shape) if stream is None else stream:
        loss, invariance, prior_term, perplexity = StreamedLoss.apply(h, dictionary, beta, prior, symmetric)
    else:
        logits = product(h.flatten(0, 1), dictionary.to(h.dtype))
        log_p = F.log_softmax(logits, dim=-1).unflatten(0, h.shape[:2])
        log_mean = terms.log_usage(log_p)
        invariance = terms.invariance(log_p, symmetric)
        prior_term = terms.prior_matching(log_mean if symmetric else log_mean[:1], prior).mean()
        perplexity = terms.entropy(log_mean.detach()).exp().mean()
        loss = beta * invariance + prior_term
    return loss, {"invariance": invariance, "prior": prior_term, "batch_perplexity": perplexity}


class StreamedLoss(torch.autograd.Function):
    """Loss, invariance, prior term and perplexity of h (V, n, f), with the loss's gradient, named as above."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, dictionary: Tensor, beta: float, prior: str, symmetric: bool
    ) -> tuple[Tensor, ...]:
        (views, n, f), codes = h.shape, len(dictionary)
        rows = h.detach().flatten(0, 1)
        log_z = _log_normaliser(rows, dictionary)
        together = terms.pairs(views, symmetric)
        counted = views if symmetric else 1
        gamma = beta / (n * len(together))

        invariance, prior_term, entropy = rows.new_zeros(()), rows.new_zeros(()), rows.new_zeros(views)
        sums, y = rows.new_zeros(2 * len(rows), f), rows.new_zeros(views, n, 1)
        buffer = rows.new_empty(0)
        for block in blocks(dictionary, rows):
            log_p = product(rows, block).sub_(log_z).view(views, n, -1)
            # p and p * Y side by side, for one product with the codes; in the same memory for every block.
            buffer = buffer if buffer.numel() else torch.stack([log_p, log_p])
            both = buffer[..., : len(block)]
            p, p_y = both
            torch.exp(log_p, out=p)
            if prior == "forward":
                log_mean = terms.log_usage(log_p)
                prior_term -= log_mean[:counted].sum(-1).mean() / codes
            else:
                # A mean that underflows counts as tiny: all that its logarithm is multiplied with underflows, too.
                log_mean = p.mean(1).clamp_min_(torch.finfo(p.dtype).tiny).log_()
                relative = log_mean[:counted] + math.log(codes)
                prior_term += (log_mean[:counted].exp() * relative).sum(-1).mean()
            entropy += terms.entropy(log_mean)
            for a, b in together:
                invariance -= torch.linalg.vecdot(p[a], log_p[b]).sum() / (n * len(together))
            for a in range(views):
                slope = torch.zeros_like(log_mean[a])
                if prior == "reverse" and a < counted:
                    slope = (log_mean[a] + (math.log(codes) + 1)) / (n * counted)
                for b in (partner for view, partner in together if view == a):
                    slope = torch.sub(slope, log_p[b], alpha=gamma, out=p_y[a])
                torch.mul(slope, p[a], out=p_y[a])
                if prior == "forward" and a < counted:
                    # p / p̄ by logarithms, which stay finite where the mean p̄ underflows.
                    p_y[a].sub_((log_p[a] - log_mean[a]).exp_(), alpha=1 / (codes * n * counted))
            sums += product(both.reshape(len(sums), -1), block.T)
            y += p_y.sum(-1, keepdim=True)

        m, g = sums.view(2, views, n, f)
        gradient = g - y * m
        for b, a in together:
            gradient[a] -= gamma * (m[b] - m[a])
        perplexity = entropy.exp().mean()
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(invariance, prior_term, perplexity)
        return beta * invariance + prior_term, invariance, prior_term, perplexity

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0], None, None, None, None


def _log_normaliser(rows: Tensor, dictionary: Tensor) -> Tensor:
    """log Z (r, 1) of embeddings (r, f) and codes (c, f)."""
    # In double precision: hundreds of partial sums would lose digits that the loss needs.
    total = torch.full((len(rows), 1), -math.inf, dtype=torch.float64, device=rows.device)
    for block in blocks(dictionary, rows):
        logits = product(rows, block)
        largest = logits.amax(-1, keepdim=True)
        part = logits.sub_(largest).exp_().sum(-1, keepdim=True).log_() + largest
        total = torch.logaddexp(total, part.double())
    return total.to(rows.dtype)
