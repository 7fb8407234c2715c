"""The supervised upper bound against torch's own cross-entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from cplearn.methods import supervised
from support import batch_of, build_method, normal

K, V, N, C = 2, 2, 6, 4


def labels() -> torch.Tensor:
    return torch.randint(0, C, (K, N), generator=torch.Generator().manual_seed(0))


def test_the_loss_is_torchs_and_leaves_out_images_without_a_label() -> None:
    logits, y = normal(K, V, N, C), labels()
    y[0, 2:4] = -1
    got = supervised.cross_entropy(logits, y)
    for k in range(K):
        expected = F.cross_entropy(logits[k].flatten(0, 1), y[k].repeat(V), ignore_index=-1)
        torch.testing.assert_close(got[k], expected)


def test_a_batch_without_labels_teaches_nothing() -> None:
    logits = normal(K, V, N, C).requires_grad_()
    loss = supervised.cross_entropy(logits, torch.full((K, N), -1))
    loss.sum().backward()
    assert torch.equal(loss, torch.zeros(K, dtype=torch.float64))
    assert not logits.grad.any()


def test_codes_are_the_predicted_classes() -> None:
    method, y = build_method("supervised", [{}] * K, 5, classes=C), labels()
    x = normal(K, V, N, 5)
    _, terms = method(batch_of(x, y))
    predicted = torch.stack([method.codes(method.embed(view)) for view in x.unbind(1)], dim=1)
    torch.testing.assert_close(terms["accuracy"], (predicted == y[:, None]).double().mean((1, 2)))
    assert method.n_codes == C
