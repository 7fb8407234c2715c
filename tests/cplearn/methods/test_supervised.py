"""The supervised upper bound against torch's own cross-entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cplearn.methods import supervised
from support import batch_of, build_method, normal

V, N, C = 2, 6, 4


def labels() -> torch.Tensor:
    return torch.randint(0, C, (N,), generator=torch.Generator().manual_seed(0))


def test_the_loss_is_torchs_and_leaves_out_images_without_a_label() -> None:
    logits, y = normal(V, N, C), labels()
    for labelled in (y, torch.cat([y[:2], torch.tensor([-1, -1]), y[4:]])):
        expected = F.cross_entropy(logits.flatten(0, 1), labelled.repeat(V), ignore_index=-1)
        torch.testing.assert_close(supervised.cross_entropy(logits, labelled), expected)


def test_a_batch_without_labels_teaches_nothing() -> None:
    logits = normal(V, N, C).requires_grad_()
    loss = supervised.cross_entropy(logits, torch.full((N,), -1))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_codes_are_the_predicted_classes() -> None:
    method, y, x = build_method("supervised", {}, 5, classes=C), labels(), normal(V, N, 5)
    _, terms = method(batch_of(x, y))
    predicted = torch.stack([method.codes(method.embed(view)) for view in x])
    torch.testing.assert_close(terms["accuracy"], (predicted == y).double().mean())
    assert method.n_codes == C
