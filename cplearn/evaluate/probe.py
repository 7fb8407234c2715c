"""Classifiers on frozen features: linear ones, fitted by L-BFGS, SGD or Adam, and k nearest neighbours."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cplearn.evaluate.inputs import Array, finite, standardise, to_float64, to_indices

TOLERANCE = 1e-5  # Largest gradient of the mean loss at which L-BFGS stops; with 1e-4 the accuracy still moves.
MAX_ITERATIONS = 2000  # Of L-BFGS; features of a backbone take some two hundred, raw pixels far more.
TOP = 5
EPOCHS = 100  # Of SGD and Adam.
SIMILARITIES = 2**25  # Held at once, 128 MiB in float32: the matrix of all test and training images may not fit.


def linear_probe(
    train: Array, train_labels: Array, test: Array, test_labels: Array, *, c: float = 1.0
) -> Iterator[tuple[str, float]]:
    """Multinomial logistic regression on standardised features, fitted in float64 by L-BFGS; no random draw.

    train: (n, F), test: (m, F), with statistics for both taken from `train`; `c` is scikit-learn's C, the inverse of
    the L2 penalty on the weights against the summed loss. Yields `probe/accuracy` (test), `probe/train_accuracy`,
    `probe/converged`: 1, or 0 if L-BFGS gave up; and, with more than 5 classes in `train`, `probe/top5` (test). Raises
    ValueError if `train` has only one class.

    >>> features, labels = np.array([[0.0], [0.1], [1.0], [1.1]]), np.array([0, 0, 1, 1])
    >>> dict(linear_probe(features, labels, features, labels))["probe/accuracy"]
    1.0
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x_train, x_test = standardise(to_float64(train, "training features"), to_float64(test, "test features"))
    y_train, y_test = to_indices(train_labels), to_indices(test_labels)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model = LogisticRegression(C=c, tol=TOLERANCE, max_iter=MAX_ITERATIONS).fit(x_train, y_train)
    gave_up = any(issubclass(warning.category, ConvergenceWarning) for warning in caught)
    yield "probe/accuracy", float(model.score(x_test, y_test))
    yield "probe/train_accuracy", float(model.score(x_train, y_train))
    yield "probe/converged", float(not gave_up)
    if len(model.classes_) > TOP:
        best = np.argsort(-model.decision_function(x_test), axis=1, kind="stable")[:, :TOP]
        yield "probe/top5", float((model.classes_[best] == y_test[:, None]).any(1).mean())


@dataclass(frozen=True)
class Protocol:
    """How a probe is trained by gradient steps: `optimizer` of its parameters, `decay` epochs divide the rate by 10."""

    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    batch_size: int
    decay: tuple[int, ...] = ()


PROTOCOLS = {
    # solo-learn, scripts/linear/imagenet-100/*.yaml and solo/args: it publishes no other for CIFAR.
    "sgd": Protocol(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), batch_size=256, decay=(60, 80)),
    # Our reading of the paper, which names no optimiser that could be read: that of its training.
    "adam": Protocol(lambda p: torch.optim.Adam(p, lr=1e-3), batch_size=64),
}


def gradient_probe(
    name: str,
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    classes: int,
    generator: torch.Generator,
    augmented: Callable[[int], Tensor] | None = None,
) -> Iterator[tuple[str, float]]:
    """Train a linear classifier by one of `PROTOCOLS`; its accuracies are those after the last epoch.

    train: (n, F), test: (m, F), labels (n,) and (m,) in 0..classes-1; features are neither normalised nor standardised.
    Weights (as `torch.nn.Linear` draws them) and orders of batches come from the CPU generator alone; incomplete
    batches are dropped. `augmented` gives the features (n, F) of the training images as they are augmented in an epoch,
    counted from 0, to be fitted in place of `train`. Yields, after `probe_<name>/`, what `linear_probe` does but
    `converged`.
    """
    protocol, device = PROTOCOLS[name], train.device
    train, test = finite(train, "training features"), finite(test, "test features")
    (n, width), labels, truth = train.shape, train_labels.to(device), test_labels.to(device)
    bound = width**-0.5
    start = (2 * bound * torch.rand(width + 1, classes, generator=generator) - bound).to(device, train.dtype)
    weight, bias = nn.Parameter(start[:-1].clone()), nn.Parameter(start[-1].clone())
    optimizer = protocol.optimizer([weight, bias])
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(protocol.decay))
    batch = min(protocol.batch_size, n)
    for epoch in range(EPOCHS):
        seen = train if augmented is None else augmented(epoch)
        order = torch.randperm(n, generator=generator).to(device)
        for rows in order[: n - n % batch].split(batch):
            loss = F.cross_entropy(torch.addmm(bias, seen[rows], weight), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    with torch.no_grad():
        test_scores, train_scores = (torch.addmm(bias, x, weight) for x in (test, train))
    yield f"probe_{name}/accuracy", _top(test_scores, truth, 1)
    yield f"probe_{name}/train_accuracy", _top(train_scores, labels, 1)
    if classes > TOP:
        yield f"probe_{name}/top5", _top(test_scores, truth, TOP)


def _top(scores: Tensor, labels: Tensor, k: int) -> float:
    """Part of the images (n, classes) whose label is among the k highest scores."""
    return float((scores.topk(k, dim=1).indices == labels[:, None]).any(1).double().mean())


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
        votes = weight.new_zeros(len(weight), int(labels.max()) + 1)
        # One neighbour of each image at a time: a GPU would add those of an image in no fixed order.
        for voted, weights in zip(labels[index].T, weight.T, strict=True):
            votes.scatter_add_(1, voted[:, None], weights[:, None])
        predicted.append(votes.argmax(1))
    yield "knn/accuracy", float((torch.cat(predicted) == truth).double().mean())


def _unit(features: Tensor) -> Tensor:
    """Rows (n, F) of length 1 or 0, in float32 at least; the length is taken in float64, whose range is wider."""
    dtype = torch.promote_types(features.dtype, torch.float32)
    return F.normalize(features.double(), dim=1, eps=torch.finfo(torch.float64).tiny).to(dtype)


def _nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of (b, n), the earliest among equals; values and columns, each (b, k)."""
    values, index = similarity.topk(min(k + 1, similarity.shape[1]), dim=1)
    contested = (values[:, k - 1] == values[:, -1]) & (values.shape[1] > k)
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
