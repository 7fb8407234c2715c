"""Products by oneDNN are those of torch."""

from __future__ import annotations

import pytest
import torch

from cplearn.dictionary import products
from cplearn.dictionary.products import product


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_and_their_gradients_are_those_of_torch(members: int, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    b = torch.randn(members, 70, 12, generator=draw).to(dtype)
    ours = torch.randn(members, 9, 12, generator=draw).to(dtype).requires_grad_()
    plain = ours.detach().clone().requires_grad_()
    weights = torch.randn(members, 9, 70, generator=draw).to(dtype)
    found, expected = product(ours, b), plain @ b.mT
    torch.testing.assert_close(found, expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad)
    torch.testing.assert_close(product(weights, b.mT), weights @ b)


def test_onednn_is_used_where_it_is_and_bmm_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert products._linear is not None, "this torch has another operator; see cplearn/dictionary/products.py"
    a, b = torch.randn(1, 9, 12, requires_grad=True), torch.randn(1, 70, 12)
    assert "Product" in type(product(a, b).grad_fn).__name__
    with torch.backends.mkldnn.flags(enabled=False):
        assert "Bmm" in type(product(a, b).grad_fn).__name__
    monkeypatch.setattr(products, "_linear", None)
    torch.testing.assert_close(product(a, b), a @ b.mT)
