"""Terms of losses over soft assignments."""

from __future__ import annotations

import math

import pytest
import torch

from cplearn.dictionary import terms

C = 12


def test_prior_terms_are_least_at_uniform_usage_and_finite_where_it_underflows() -> None:
    uniform = torch.full((C,), -math.log(C), dtype=torch.float64)
    assert terms.prior_matching(uniform, "forward").item() == pytest.approx(math.log(C))
    assert terms.prior_matching(uniform, "reverse").item() == pytest.approx(0, abs=1e-12)
    log_p = torch.full((4, C), -2000.0)
    log_p[..., 0] = 0.0
    log_p.requires_grad_()
    forward, reverse = (terms.prior_matching(terms.log_usage(log_p), name) for name in ("forward", "reverse"))
    assert reverse.item() == pytest.approx(math.log(C), rel=1e-5)
    assert forward.item() == pytest.approx(2000 * (C - 1) / C, rel=1e-5)
    (forward + reverse).backward()
    assert log_p.grad.isfinite().all()


def test_perplexity_counts_the_codes_in_use() -> None:
    rows = torch.eye(C, dtype=torch.float64)[torch.arange(6) % 3]
    log_p = (1e4 * rows).log_softmax(-1).expand(2, 6, C)
    assert terms.perplexity(log_p).item() == pytest.approx(3)
