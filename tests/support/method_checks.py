"""Checks that every method must pass: those of cplearn/methods, and that of the walk-through in docs/own-method.md."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cplearn import methods
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset
from cplearn.training import TrialTraining
from support import batch_of, build_method, normal

TRAINED = [name for name in methods.names() if methods.get(name).Settings.trains]
# Not the 8 images of the settings: several devices may have gathered theirs.
N, F, CLASSES = 12, 6, 4


def labels(seed: int = 0) -> Tensor:
    return torch.randint(0, CLASSES, (N,), generator=torch.Generator().manual_seed(seed))


def check_shapes_and_gradients(name: str) -> None:
    method = build_method(name, {}, F, CLASSES)
    loss, terms = method(batch_of(normal(2, N, F).requires_grad_(), labels()))
    assert {value.shape for value in (loss, *terms.values())} == {()}
    loss.backward()
    assert all((p.grad is not None) == p.requires_grad for p in method.parameters())
    method.eval()
    embeddings = method.embed(normal(N, F))
    assert len(embeddings) == N
    codes = method.codes(embeddings)
    assert codes.shape == (N,)
    assert 0 <= codes.min() <= codes.max() < method.n_codes


def check_no_value_is_needed_on_the_host(name: str) -> None:
    """A step never waits for an accelerator: on the meta device nothing has a value, so asking for one fails."""
    method = build_method(name, {}, F, CLASSES).to("meta")
    batch = batch_of(normal(2, N, F).to("meta"), labels().to("meta"))
    method(batch)[0].backward()
    method.before_update(batch.progress)
    method.after_update(batch.progress)


def check_only_a_supervised_method_looks_at_labels(name: str) -> None:
    losses = [build_method(name, {}, F, CLASSES)(batch_of(normal(2, N, F), labels(seed)))[0] for seed in (0, 1)]
    assert torch.equal(*losses) != methods.get(name).Settings.supervised


def check_trains(name: str, dataset: Dataset) -> None:
    """A training of one epoch moves the backbone and stays finite."""
    backbone = {"name": "resnet8-slim", "width": 4}
    trial = TrialSettings.read({"dataset": "digits", "method": name, "backbone": backbone, "epochs": 1})
    training = TrialTraining(trial, dataset)
    before = [weight.detach().clone() for weight in training.model.backbone.parameters()]
    metrics = training.train_epoch()
    assert training.failure is None
    assert all(math.isfinite(value) for value in metrics.values())
    assert not any(torch.equal(*pair) for pair in zip(before, training.model.backbone.parameters(), strict=True))


def check_against_naive(
    loss: Callable[[Tensor], Tensor], naive: Callable[[np.ndarray], float], x: Tensor, rel: float = 1e-10
) -> None:
    """The loss of x equals its naive version, and its gradient central differences of it in a dozen coordinates."""
    x = x.detach().clone().requires_grad_()
    value = loss(x)
    assert value.item() == pytest.approx(naive(x.detach().numpy()), rel=rel)
    (gradient,) = torch.autograd.grad(value, x)
    step = 1e-5
    for position in range(0, x.numel(), max(1, x.numel() // 12)):
        values = []
        for sign in (1, -1):
            moved = x.detach().numpy().copy()
            moved.reshape(-1)[position] += sign * step
            values.append(naive(moved))
        difference = (values[0] - values[1]) / (2 * step)
        assert gradient.flatten()[position].item() == pytest.approx(difference, rel=1e-4, abs=1e-7)
