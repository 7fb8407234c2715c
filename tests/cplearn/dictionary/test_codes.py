"""The loss over a dictionary, streamed and materialised, and its parts."""

from __future__ import annotations

import math

import pytest
import torch

from cplearn.dictionary import codes

C = 12
WAYS = [(prior, symmetric) for prior in ("forward", "reverse") for symmetric in (True, False)]


def problem(members: int = 2, views: int = 2, n: int = 5, f: int = 8, c: int = 700) -> tuple[torch.Tensor, ...]:
    """h, dictionary and β; 700 codes are more than the 256 of the smallest block, and no multiple of it."""
    draw = torch.Generator().manual_seed(0)
    h = torch.randn(members, views, n, f, generator=draw, dtype=torch.float64)
    dictionary = torch.stack([codes.rademacher(c, f, draw) for _ in range(members)])
    return h, dictionary, torch.tensor([0.3, 4.0], dtype=torch.float64)[:members]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "_block_size", lambda rows, device: 256)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("prior", "symmetric"), WAYS)
@pytest.mark.parametrize("views", [2, 3])
def test_streamed_is_materialised(prior: str, symmetric: bool, views: int) -> None:
    h, dictionary, beta = problem(views=views)
    results = []
    for stream in (False, True):
        own = h.clone().requires_grad_()
        loss, terms = codes.losses(own, dictionary, beta, prior=prior, symmetric=symmetric, stream=stream)
        (loss * torch.tensor([1.0, 0.5])).sum().backward()
        results.append((loss, *terms.values(), own.grad))
    for plain, streamed in zip(*results, strict=True):
        torch.testing.assert_close(streamed, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("prior", "symmetric"), WAYS)
def test_streamed_gradient_by_differences(prior: str, symmetric: bool) -> None:
    h, dictionary, beta = problem(n=3, f=4, c=300)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return codes.losses(x, dictionary, beta, prior=prior, symmetric=symmetric, stream=True)[0]

    assert torch.autograd.gradcheck(loss, (h.requires_grad_(),))


def test_streamed_in_single_precision_keeps_its_digits() -> None:
    """Against float64 at a size where float32 has hundreds of blocks to add up."""
    h, dictionary, beta = problem(members=1, n=16, f=32, c=200_000)
    exact, rounded = h.clone().requires_grad_(), h.float().requires_grad_()
    reference = codes.losses(exact, dictionary, beta, stream=True)[0]
    loss = codes.losses(rounded, dictionary, beta.float(), stream=True)[0]
    reference.sum().backward()
    loss.sum().backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    assert (rounded.grad - exact.grad).norm() < 1e-4 * exact.grad.norm()


def test_nothing_of_the_size_of_the_logits_is_kept() -> None:
    h, dictionary, beta = problem(members=1, c=3000)
    loss, _ = codes.losses(h.requires_grad_(), dictionary, beta, stream=True)
    assert sum(t.numel() for t in loss.grad_fn.saved_tensors) == h.numel()


@pytest.mark.parametrize(("length", "first"), [(8, 1), (128, 4_096), (384, 110_592)])
def test_large_dictionaries_are_streamed_by_default(length: int, first: int) -> None:
    assert codes.is_streamed(first, length)
    assert not codes.is_streamed(first - 1, length)


@pytest.mark.parametrize(("size", "streamed"), [(64, True), (63, False)])
def test_the_default_way_is_the_one_that_is_said(size: int, streamed: bool) -> None:
    h, dictionary, beta = problem(f=32, c=size)
    loss, _ = codes.losses(h.requires_grad_(), dictionary, beta)
    assert ("Streamed" in type(loss.grad_fn).__name__) == streamed


@pytest.mark.usefixtures("small_blocks")
def test_streamed_arg_max_is_the_arg_max_and_the_first_of_equals() -> None:
    h, dictionary, _ = problem(f=40)
    dictionary[:, 400] = dictionary[:, 20]
    logits = torch.einsum("knf,kcf->knc", h[:, 0], dictionary.double())
    found = codes.nearest(h[:, 0], dictionary)
    assert torch.equal(found, logits.argmax(-1))
    twin = dictionary[:, 20].double()[:, None]
    assert codes.nearest(twin, dictionary).flatten().tolist() == [20, 20]


def test_a_lost_member_leaves_the_streamed_loss_of_the_others_alone() -> None:
    h, dictionary, beta = problem()
    expected = codes.losses(h, dictionary, beta, stream=True)[0]
    h[0] = float("nan")
    loss = codes.losses(h, dictionary, beta, stream=True)[0]
    assert loss[0].isnan()
    assert torch.equal(loss[1], expected[1])


def test_prior_terms_are_least_at_uniform_usage_and_finite_where_it_underflows() -> None:
    uniform = torch.full((1, C), -math.log(C), dtype=torch.float64)
    assert codes.prior_matching(uniform, "forward").item() == pytest.approx(math.log(C))
    assert codes.prior_matching(uniform, "reverse").item() == pytest.approx(0, abs=1e-12)
    log_p = torch.full((1, 4, C), -2000.0)
    log_p[..., 0] = 0.0
    log_p.requires_grad_()
    log_mean = codes.log_usage(log_p)
    forward, reverse = (codes.prior_matching(log_mean, d) for d in ("forward", "reverse"))
    assert reverse.item() == pytest.approx(math.log(C), rel=1e-5)
    assert forward.item() == pytest.approx(2000 * (C - 1) / C, rel=1e-5)
    (forward + reverse).sum().backward()
    assert log_p.grad.isfinite().all()


def test_codes_are_quasi_orthogonal_signs() -> None:
    w = codes.rademacher(2000, 128, torch.Generator().manual_seed(0))
    assert w.dtype == torch.int8
    assert set(w.unique().tolist()) == {-1, 1}
    cosines = (w.float() @ w.float().T / 128)[~torch.eye(2000, dtype=torch.bool)]
    assert cosines.mean().item() == pytest.approx(0, abs=1e-3)
    assert cosines.var().item() == pytest.approx(1 / 128, rel=0.02)
