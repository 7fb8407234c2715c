"""The loss over a dictionary, streamed and materialised."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cplearn.dictionary import signs
from cplearn.dictionary.loss import dictionary_loss, is_streamed
from support import normal

WAYS = [(prior, symmetric) for prior in ("forward", "reverse") for symmetric in (True, False)]


def problem(views: int = 2, n: int = 5, f: int = 8, c: int = 700) -> tuple[Tensor, Tensor]:
    """h and dictionary; 700 codes are more than the 256 of the smallest block, and no multiple of it."""
    return normal(views, n, f).requires_grad_(), signs.rademacher(c, f, torch.Generator().manual_seed(0))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signs, "block_size", lambda rows, device: 256)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("prior", "symmetric"), WAYS)
@pytest.mark.parametrize("views", [2, 3])
@pytest.mark.parametrize("beta", [0.3, 4.0])
def test_streamed_is_materialised(prior: str, symmetric: bool, views: int, beta: float) -> None:
    h, dictionary = problem(views=views)
    results = []
    for stream in (False, True):
        loss, terms = dictionary_loss(h, dictionary, beta, prior=prior, symmetric=symmetric, stream=stream)
        results.append((loss, *terms.values(), *torch.autograd.grad(0.5 * loss, h)))
    for plain, streamed in zip(*results, strict=True):
        torch.testing.assert_close(streamed, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("prior", "symmetric"), WAYS)
def test_streamed_gradient_by_differences(prior: str, symmetric: bool) -> None:
    h, dictionary = problem(n=3, f=4, c=300)

    def loss(x: Tensor) -> Tensor:
        return dictionary_loss(x, dictionary, 0.3, prior=prior, symmetric=symmetric, stream=True)[0]

    assert torch.autograd.gradcheck(loss, (h,))


def test_streamed_in_single_precision_keeps_its_digits() -> None:
    """Against float64 at a size where float32 has hundreds of blocks to add up."""
    exact, dictionary = problem(n=16, f=32, c=200_000)
    rounded = exact.detach().float().requires_grad_()
    reference, loss = (dictionary_loss(h, dictionary, 0.3, stream=True)[0] for h in (exact, rounded))
    (expected,), (gradient,) = torch.autograd.grad(reference, exact), torch.autograd.grad(loss, rounded)
    assert loss.item() == pytest.approx(reference.item(), rel=1e-5)
    assert (gradient - expected).norm() < 1e-4 * expected.norm()


def test_nothing_of_the_size_of_the_logits_is_kept() -> None:
    h, dictionary = problem(c=3000)
    loss, _ = dictionary_loss(h, dictionary, 0.3, stream=True)
    assert sum(t.numel() for t in loss.grad_fn.saved_tensors) == h.numel()


@pytest.mark.parametrize(("length", "first"), [(8, 1), (128, 4_096), (384, 110_592)])
def test_large_dictionaries_are_streamed_by_default(length: int, first: int) -> None:
    assert is_streamed(first, length)
    assert not is_streamed(first - 1, length)


@pytest.mark.parametrize(("size", "streamed"), [(64, True), (63, False)])
def test_the_default_way_is_that_of_the_rule(size: int, streamed: bool) -> None:
    h, dictionary = problem(f=32, c=size)
    loss, _ = dictionary_loss(h, dictionary, 0.3)
    assert ("Streamed" in type(loss.grad_fn).__name__) == streamed


@pytest.mark.parametrize("stream", [True, False])
def test_a_lost_embedding_makes_the_loss_nan(stream: bool) -> None:
    h, dictionary = problem()
    h = h.detach()
    h[0, 0, 0] = float("nan")
    assert dictionary_loss(h, dictionary, 0.3, stream=stream)[0].isnan()
