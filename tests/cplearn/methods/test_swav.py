"""SwAV against a naive version of its equations; its queue, its prototypes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cplearn.methods import parts, swav
from cplearn.methods.base import Method, Progress
from method_checks import check_against_naive
from support import batch_of, build_method, normal

N, C, D, F = 6, 4, 5, 7
SMALL = {"hidden_dim": 8, "embedding_dim": D, "codes": C}


def naive(scores: np.ndarray, assignments: np.ndarray, tau: float) -> float:
    """Eq. 1 and 2 of the paper for scores (V, n, c) and assignments (G, n, c), loop by loop."""
    total = terms = 0
    for g, q in enumerate(assignments):
        for v, s in enumerate(scores):
            if v == g:
                continue
            for i in range(N):
                normaliser = sum(math.exp(s[i, j] / tau) for j in range(C))
                total -= sum(q[i, j] * math.log(math.exp(s[i, j] / tau) / normaliser) for j in range(C))
                terms += 1
    return total / terms


@pytest.mark.parametrize("tau", [0.1, 0.7])
@pytest.mark.parametrize("views", [2, 4])
def test_the_loss_matches_the_equations(views: int, tau: float) -> None:
    scores, q = normal(views, N, C).tanh(), normal(2, N, C, seed=1).softmax(-1)
    check_against_naive(
        lambda x: parts.cross_entropy((x / tau).log_softmax(-1), q), lambda x: naive(x, q.numpy(), tau), scores
    )


def test_the_order_of_the_two_views_does_not_matter() -> None:
    method, x = build_method("swav", SMALL, F), normal(2, N, F)
    torch.testing.assert_close(method(batch_of(x))[0], method(batch_of(x.flip(0)))[0])


def embedded(method: Method, x: Tensor) -> Tensor:
    """Embeddings (V, n, d) as the loss sees them, by the BatchNorm of training."""
    with torch.no_grad():
        return torch.stack([method.embed(view) for view in x])


@pytest.mark.parametrize("length", [4, N, 15])
def test_the_queue_holds_the_latest_embeddings_newest_first(length: int) -> None:
    method = build_method("swav", {**SMALL, "queue": length}, F)
    expected = torch.zeros(2, length, D, dtype=torch.float64)
    for step in range(4):
        x = normal(2, N, F, seed=step)
        expected = torch.cat([embedded(method, x), expected], dim=1)[:, :length]
        method(batch_of(x, progress=Progress(step, 4, 1)))
        torch.testing.assert_close(method.queue, expected, rtol=1e-12, atol=0)


def test_the_queue_is_used_once_it_is_full_and_its_epoch_has_come() -> None:
    settings = {**SMALL, "queue": 2 * N, "queue_from_epoch": 1}
    method, plain = build_method("swav", settings, F), build_method("swav", SMALL, F)
    used = []
    for step in range(6):
        x = normal(2, N, F, seed=step)
        queue = method.queue.clone()
        loss = method(batch_of(x, progress=Progress(step, 3, 2)))[0]
        used.append(not torch.equal(loss, plain(batch_of(x))[0]))
    assert used == [False] * 3 + [True] * 3
    # With the queue: the batch is assigned together with it, and only its own rows count.
    z = embedded(method, x)
    scores, joined = method.prototypes(z), method.prototypes(torch.cat([z, queue], dim=1))
    q = torch.stack([swav.sinkhorn(view, 0.05, 3)[:N] for view in joined])
    torch.testing.assert_close(loss, parts.cross_entropy((scores / 0.1).log_softmax(-1), q))


def test_evaluation_leaves_the_queue_alone() -> None:
    method = build_method("swav", {**SMALL, "queue": N}, F)
    method.codes(method.embed(normal(N, F)))
    assert not method.queue.any()


def test_prototypes_are_frozen_in_the_first_epochs_and_have_length_1_after_every_update() -> None:
    method = build_method("swav", {**SMALL, "freeze_epochs": 1}, F)
    optimizer = torch.optim.AdamW(method.parameters(), lr=0.1, weight_decay=0.5)
    drawn = method.prototypes.weight.detach().clone()
    for step in range(4):
        progress = Progress(step, 2, 2)
        optimizer.zero_grad()
        method(batch_of(normal(2, N, F, seed=step), progress=progress))[0].backward()
        method.before_update(progress)
        optimizer.step()
        method.after_update(progress)
        weight = method.prototypes.weight.detach()
        assert torch.equal(weight, drawn) == (step < 2)
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(C, dtype=torch.float64))
    # Frozen steps do not count as steps of the optimiser, whose first updates are corrected for their bias.
    assert optimizer.state[method.prototypes.weight]["step"] == 2


def test_codes_are_the_nearest_prototypes() -> None:
    method = build_method("swav", SMALL, F)
    assert torch.equal(method.codes(method.prototypes.weight.detach()), torch.arange(C))
