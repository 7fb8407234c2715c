"""Drawing codes, and the code nearest to an embedding."""

from __future__ import annotations

import pytest
import torch

from cplearn.dictionary import signs
from support import normal


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nearest_code_is_the_arg_max_and_the_first_of_equals(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signs, "block_size", lambda rows, device: 256)
    h, dictionary = normal(5, 40).to(dtype), signs.rademacher(700, 40, torch.Generator().manual_seed(0))
    dictionary[400] = dictionary[20]
    assert torch.equal(signs.nearest(h, dictionary), (h @ dictionary.to(dtype).T).argmax(-1))
    assert signs.nearest(dictionary[[20, 400, 699]].to(dtype), dictionary).tolist() == [20, 20, 699]


def test_codes_are_quasi_orthogonal_signs() -> None:
    w = signs.rademacher(2000, 128, torch.Generator().manual_seed(0))
    assert w.dtype == torch.int8
    assert set(w.unique().tolist()) == {-1, 1}
    cosines = (w.float() @ w.float().T / 128)[~torch.eye(2000, dtype=torch.bool)]
    assert cosines.mean().item() == pytest.approx(0, abs=1e-3)
    assert cosines.var().item() == pytest.approx(1 / 128, rel=0.02)
