"""Products by oneDNN are those of torch."""

from __future__ import annotations

import pytest
import torch

from cplearn.dictionary import products
from cplearn.dictionary.products import product
from support import normal


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_and_their_gradients_are_those_of_torch(dtype: torch.dtype) -> None:
    a, b, weights = normal(9, 12).to(dtype).requires_grad_(), normal(70, 12).to(dtype), normal(9, 70).to(dtype)
    torch.testing.assert_close(product(a, b), a @ b.T)
    ours, plain = (torch.autograd.grad(result, a, weights) for result in (product(a, b), a @ b.T))
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(product(weights, b.T), weights @ b)


def test_onednn_is_used_where_it_is_and_torchs_product_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert products._linear is not None, "this torch has another operator; see cplearn/dictionary/products.py"
    a, b = torch.randn(9, 12, requires_grad=True), torch.randn(70, 12)
    assert "Product" in type(product(a, b).grad_fn).__name__
    with torch.backends.mkldnn.flags(enabled=False):
        assert "Mm" in type(product(a, b).grad_fn).__name__
    monkeypatch.setattr(products, "_linear", None)
    torch.testing.assert_close(product(a, b), a @ b.T)
