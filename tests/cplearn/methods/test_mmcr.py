"""MMCR against a naive version of its equations and against lightly's loss, and its properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cplearn.methods import mmcr
from method_checks import check_against_naive
from support import batch_of, build_method, needs_module, normal

N, D = 5, 4


def nuclear(matrix: np.ndarray) -> float:
    """The sum of the singular values, as roots of the eigenvalues of AᵀA or AAᵀ, whichever is smaller."""
    gram = matrix @ matrix.T if len(matrix) < matrix.shape[1] else matrix.T @ matrix
    return sum(math.sqrt(max(value, 0.0)) for value in np.linalg.eigvalsh(gram))


def naive(views: np.ndarray, weight: float) -> float:
    """The loss of embeddings (V, n, d), image by image."""
    unit = [[row / math.sqrt(row @ row) for row in view] for view in views]
    centroids = np.array([sum(view[i] for view in unit) / len(views) for i in range(N)])
    local = sum(nuclear(np.array([view[i] for view in unit])) for i in range(N)) / N
    return weight * local - nuclear(centroids)


@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("views", [2, 3])
def test_the_loss_and_its_gradient_match_the_equations(views: int, weight: float) -> None:
    method = build_method("mmcr", {"hidden_dim": 8, "embedding_dim": D, "weight": weight}, D)
    method.projector = torch.nn.Identity()
    z = 3 * normal(views, N, D)
    check_against_naive(lambda x: method(batch_of(x))[0], lambda x: naive(x, weight), z)


def test_neither_lengths_nor_a_rotation_nor_the_order_of_views_or_images_matter() -> None:
    z = normal(2, N, D)
    rotation = torch.linalg.qr(normal(D, D, seed=1))[0]
    for changed in (40 * z, z @ rotation, z.flip(0), z.flip(1)):
        torch.testing.assert_close(torch.stack(mmcr.norms(changed)), torch.stack(mmcr.norms(z)))


def test_equal_views_of_orthogonal_images_are_the_optimum_and_collapse_is_far_from_it() -> None:
    """Two equal views of length 1 have the nuclear norm √2, and no other two have a smaller one."""
    centroids, views = mmcr.norms(torch.eye(4, dtype=torch.float64).expand(2, 4, 4))
    assert centroids.item() == pytest.approx(4)
    assert views.item() == pytest.approx(math.sqrt(2))
    collapsed, _ = mmcr.norms(torch.ones(2, 4, 4, dtype=torch.float64))
    assert collapsed.item() == pytest.approx(2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_give_nan(bad: float) -> None:
    z = normal(3, 2)
    z[1, 1] = bad
    assert mmcr.nuclear_norm(z).isnan()


@needs_module("lightly")
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_lightly_has_the_same_loss(weight: float) -> None:
    """Of embeddings of length 1 from one network, which it takes for those of two."""
    from lightly.loss import MMCRLoss

    z = normal(2, N, D).requires_grad_()
    first, second = torch.nn.functional.normalize(z, dim=-1)
    theirs = MMCRLoss(weight)(first.unsqueeze(1), second.unsqueeze(1))
    centroids, views = mmcr.norms(z)
    ours = weight * views - centroids
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
