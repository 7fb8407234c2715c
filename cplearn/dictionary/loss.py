"""CPLearn's loss over a frozen dictionary of codes: materialised for small dictionaries, streamed for large ones.

With n images in V views and c codes, the materialised loss holds several V*n x c matrices and leaves its gradient to
PyTorch. The streamed one (`cplearn.dictionary.streamed`) gives the same numbers with 1/271 of the memory.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from cplearn.dictionary import terms
from cplearn.dictionary.products import product
from cplearn.dictionary.streamed import StreamedLoss


def is_streamed(codes: int, length: int) -> bool:
    """Whether the loss over so many codes of this length is streamed by default.

    It is where streaming is about as fast as the other way on a CPU. Streaming computes the logits twice, which costs
    the more the longer the codes are; the other way writes and reads large matrices, which costs the more the more
    codes there are (`make bench` measures both). The rule is fixed, because the two ways round differently.

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
