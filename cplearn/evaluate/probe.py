"""Linear probes: a linear classifier on frozen features, fitted by L-BFGS, by SGD or by Adam."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cplearn.evaluate.inputs import Array, finite, standardise, to_float64, to_indices

TOLERANCE = 1e-5
"""Largest gradient of the mean loss at which L-BFGS stops; with scikit-learn's 1e-4 the accuracy still moves."""
MAX_ITERATIONS = 2000
"""Most iterations of L-BFGS. Some two hundred are enough for the features of a backbone; raw pixels, thousands of
correlated features, take far more."""
TOP = 5


def linear_probe(
    train: Array, train_labels: Array, test: Array, test_labels: Array, *, c: float = 1.0
) -> Iterator[tuple[str, float]]:
    """Multinomial logistic regression on standardised features, fitted in float64 by L-BFGS; no random draw.

    train: (n, F), test: (m, F), with statistics for both taken from `train`; `c` is scikit-learn's C, the inverse of
    the L2 penalty on the weights against the summed loss. Yields `probe/accuracy` (test), `probe/train_accuracy`,
    `probe/converged`: 1, or 0 if L-BFGS gave up, and then the accuracies depend on where it stopped; and, with more
    than 5 classes in `train`, `probe/top5`: test images whose class is among the five likeliest. A class that is
    missing in `train` is never predicted. Raises ValueError if `train` has only one class.

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
    epochs: int = 100


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

    train: (n, F), test: (m, F), labels (n,) and (m,) in 0..classes-1. Weights (as `torch.nn.Linear` draws them) and
    orders of batches come from the CPU generator alone. `augmented` gives the features (n, F) of the training images as
    they are augmented in an epoch, counted from 0, to be fitted in place of `train`.

    sgd -- solo-learn's linear evaluation: SGD at 0.1 with momentum 0.9, no weight decay, batches of 256, 100 epochs,
        rate over 10 after 60 and 80; features neither normalised nor standardised; incomplete batches dropped. It
        augments the training images anew in every epoch (random resized crop and flip); `augmented` is for that.
    adam -- our closest reading of the paper's own probe, whose optimiser could not be read: Adam at 1e-3, batches of
        64, 100 epochs, as the backbone is trained.

    Yields `probe_<name>/accuracy` (test), `probe_<name>/train_accuracy` and, with more than 5 classes,
    `probe_<name>/top5` (test).
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
    for epoch in range(protocol.epochs):
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
