"""k-nearest-neighbour classification on frozen features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cplearn.evaluate.inputs import Array, finite

SIMILARITIES = 2**25
"""Most similarities held at once, 128 MiB in float32: the matrix of all test and training images may not fit."""


def knn(
    train: Array,
    train_labels: Array,
    test: Array,
    test_labels: Array,
    *,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> Iterator[tuple[str, float]]:
    """Weighted vote of the nearest training images by cosine similarity s; a vote counts exp(s / temperature).

    Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, section 3.4.
    train: (n, F), test: (m, F) on one device, labels from 0. Yields `knn/accuracy`. All training images vote where
    there are fewer than `neighbours`. Among equally near images the first ones are the neighbours; among classes with
    equal votes the lowest wins. The similarity to a feature vector of zeros is 0.

    >>> train, test = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[3.0, 1.0], [1.0, 2.0]])
    >>> dict(knn(train, torch.tensor([0, 1]), test, torch.tensor([0, 1]), neighbours=1))
    {'knn/accuracy': 1.0}
    """
    x_train, x_test = _unit(finite(train, "training features")), _unit(finite(test, "test features"))
    labels, truth = (torch.as_tensor(x, device=x_train.device) for x in (train_labels, test_labels))
    if len(x_train) != len(labels) or len(x_test) != len(truth):
        raise ValueError(f"{len(labels)} and {len(truth)} labels for {len(x_train)} and {len(x_test)} images")
    k = min(neighbours, len(x_train))
    predicted = []
    for block in x_test.split(max(1, SIMILARITIES // len(x_train))):
        similarity, index = _nearest(block @ x_train.T, k)
        # Relative to the nearest: the same order of votes, and no overflow at a low temperature.
        weight = ((similarity - similarity.amax(1, keepdim=True)).double() / temperature).exp()
        predicted.append(_vote(weight, labels[index]))
    yield "knn/accuracy", float((torch.cat(predicted) == truth).double().mean())


def _unit(features: Tensor) -> Tensor:
    """Rows (n, F) of length 1 or 0, in float32 at least; the length is taken in float64, whose range is wider."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    return F.normalize(features.double(), dim=1, eps=torch.finfo(torch.float64).tiny).to(dtype)


def _nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of (b, n), the earliest among equals; values and columns, each (b, k)."""
    values, index = similarity.topk(min(k + 1, similarity.shape[1]), dim=1)
    contested = values[:, k - 1] == values[:, -1] if values.shape[1] > k else torch.zeros_like(values[:, 0]).bool()
    values, index = values[:, :k], index[:, :k]
    if contested.any():
        # topk leaves open which of the equals at the border it takes.
        rows, border = similarity[contested], values[contested, -1:]
        nearer, equal = rows > border, rows == border
        room = k - nearer.sum(1, keepdim=True)
        taken = nearer | (equal & (equal.cumsum(1, dtype=torch.int32) <= room))
        index[contested] = taken.nonzero()[:, 1].view(-1, k)
        values = similarity.gather(1, index)
    return values, index


def _vote(weight: Tensor, label: Tensor) -> Tensor:
    """The class (b,) with the largest sum of weights; both arguments (b, k)."""
    votes = weight.new_zeros(len(weight), int(label.max()) + 1)
    # One neighbour of each image at a time: a GPU would add those of an image in no fixed order.
    for labels, weights in zip(label.T, weight.T, strict=True):
        votes.scatter_add_(1, labels[:, None], weights[:, None])
    return votes.argmax(1)
