"""SimSiam against a naive version of its loss and against lightly's; the stop-gradient and what it leaves out."""

from __future__ import annotations

import math

import numpy as np
import torch

from cplearn.methods import simsiam
from method_checks import check_against_naive
from support import batch_of, build_method, needs_module, normal

N, D = 6, 4


def with_parts(weight: np.ndarray) -> simsiam.Method:
    """A method whose projector is the identity and whose predictor one matrix."""
    method = build_method("simsiam", {"hidden_dim": 8, "embedding_dim": D, "predictor_dim": 3}, D)
    method.projector = torch.nn.Identity()
    method.predictor = torch.nn.Linear(D, D, bias=False).double()
    method.predictor.weight.data = torch.from_numpy(weight)
    return method


def naive(z: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> float:
    """Eq. 1 and 2 of the paper, loop by loop, of projections z; what no gradient flows through is apart."""
    total = 0.0
    for a, b in ((0, 1), (1, 0)):
        for row, t in zip(z[a], targets[b], strict=True):
            p = weight @ row
            total -= p @ t / math.sqrt(p @ p) / math.sqrt(t @ t) / N / 2
    return total


def test_the_loss_and_its_gradient_match_the_equations() -> None:
    """The naive version is moved in its predictions alone, which is what the stop-gradient means."""
    z, weight = normal(2, N, D), normal(D, D, seed=1).numpy()
    method = with_parts(weight)
    check_against_naive(lambda x: method(batch_of(x))[0], lambda x: naive(x, z.numpy(), weight), z)


def test_the_projection_is_standardised_over_the_batch() -> None:
    method = build_method("simsiam", {"hidden_dim": 8, "embedding_dim": D})
    z = method.projector(normal(50, 6))
    torch.testing.assert_close(z.mean(0), torch.zeros(D, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(z.var(0, correction=0), torch.ones(D, dtype=torch.float64), rtol=1e-3, atol=0)


@needs_module("lightly")
def test_lightly_has_the_same_loss() -> None:
    from lightly.loss import NegativeCosineSimilarity

    z, weight = normal(2, N, D).requires_grad_(), normal(D, D, seed=1).numpy()
    method, criterion = with_parts(weight), NegativeCosineSimilarity()
    p, fixed = method.predictor(z), z.detach()
    theirs = 0.5 * (criterion(p[0], fixed[1]) + criterion(p[1], fixed[0]))
    ours = method(batch_of(z))[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)
