"""CPLearn's loss against a naive float64 NumPy version written from the equations, and its properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cplearn.backbones import initialise
from cplearn.dictionary.signs import rademacher
from cplearn.errors import InputError
from cplearn.methods import cplearn as method
from cplearn.methods.base import MethodInputs
from method_checks import check_against_naive
from support import batch_of, normal

N, F_IN, F, C = 6, 5, 8, 12


def naive_loss(views: np.ndarray, w: np.ndarray, s: method.Settings, weight: np.ndarray) -> tuple[float, ...]:
    """Eq. 7 from backbone features (2, n, F_in) of two views, loop by loop; returns loss, invariance, prior."""

    def assignments(features: np.ndarray) -> np.ndarray:
        linear = features @ weight
        e = (linear - linear.mean(0)) / np.sqrt(linear.var(0) + 1e-5)
        n, f = e.shape
        h = np.tanh(e) if s.form == "tanh" else math.sqrt(f / n) * e / np.linalg.norm(e, axis=1, keepdims=True)
        tau = f / (math.sqrt(n) * math.log((1 - s.epsilon * (C - 1)) / s.epsilon))
        p = np.zeros((n, C))
        for i in range(n):
            logits = [sum(h[i, k] * w[j, k] for k in range(f)) / tau for j in range(C)]
            top = max(logits)
            total = sum(math.exp(x - top) for x in logits)
            p[i] = [math.exp(x - top) / total for x in logits]
        return p

    def one_order(p: np.ndarray, q: np.ndarray) -> tuple[float, float]:
        agree = -sum(p[i, j] * math.log(q[i, j]) for i in range(N) for j in range(C)) / N
        mean = p.mean(0)
        if s.prior == "forward":
            return agree, -sum(math.log(mean[j]) / C for j in range(C))
        return agree, sum(mean[j] * math.log(C * mean[j]) for j in range(C))

    p, q = map(assignments, views)
    orders = [one_order(p, q), one_order(q, p)] if s.symmetric else [one_order(p, q)]
    agree, prior = np.mean(orders, axis=0)
    return s.beta * agree + prior, agree, prior


def build(settings: method.Settings, seed: int = 0) -> method.Method:
    draw = torch.Generator().manual_seed(seed)
    built = method.Method(settings, MethodInputs(F_IN, N, 0, draw, lambda step: draw)).double()
    initialise(built, draw)
    return built


def features(n: int = N) -> torch.Tensor:
    return normal(2, n, F_IN, seed=1)


def settings(**changes: object) -> method.Settings:
    # A large epsilon keeps every probability within reach of the naive exponentials.
    return method.Settings(**{"codes": C, "embedding_dim": F, "epsilon": 1e-3, "beta": 0.7} | changes)


@pytest.mark.parametrize("form", ["l2", "tanh"])
@pytest.mark.parametrize("prior", ["forward", "reverse"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("beta", [0.7, 3.0])
def test_values_and_gradients_match_the_equations(form: str, prior: str, symmetric: bool, beta: float) -> None:
    s = settings(form=form, prior=prior, symmetric=symmetric, beta=beta)
    model, x = build(s), features()
    w, weight = model.dictionary.numpy().astype(float), model.linear.weight.detach().numpy().T
    check_against_naive(lambda z: model(batch_of(z))[0], lambda z: naive_loss(z, w, s, weight)[0], x)
    _, terms = model(batch_of(x))
    assert [terms["invariance"].item(), terms["prior"].item()] == pytest.approx(naive_loss(x.numpy(), w, s, weight)[1:])


@pytest.mark.parametrize(("f", "n", "c", "epsilon"), [(128, 64, 2048, 1e-8), (16, 8, 10, 1e-3)])
def test_closed_form_temperature_leaves_epsilon_to_orthogonal_codes(f: int, n: int, c: int, epsilon: float) -> None:
    tau = method.temperature(f, n, c, epsilon)
    # An embedding aligned with code 0 has logit f / sqrt(n) there and 0 at every orthogonal code.
    logits = torch.zeros(c, dtype=torch.float64)
    logits[0] = f / math.sqrt(n) / tau
    p = torch.softmax(logits, 0)
    assert p[0].item() == pytest.approx(1 - epsilon * (c - 1), rel=1e-9)
    assert p[1].item() == pytest.approx(epsilon, rel=1e-6)


@pytest.mark.parametrize("form", ["l2", "tanh"])
def test_largest_logit_of_both_forms(form: str) -> None:
    """l2: log((1-ε(c-1))/ε), whatever n; tanh: sqrt(n) times that, for a saturated embedding."""
    f, n, c, epsilon = 32, 16, 100, 1e-8
    code = rademacher(1, f, torch.Generator().manual_seed(0)).double()[0]
    h = method.embedding((1e3 * code).expand(n, f), form)
    largest = (h[0] @ code).item() / method.temperature(f, n, c, epsilon)
    expected = math.log((1 - epsilon * (c - 1)) / epsilon)
    assert largest == pytest.approx(expected * (math.sqrt(n) if form == "tanh" else 1))


def test_no_temperature_where_the_codes_leave_no_probability() -> None:
    with pytest.raises(ValueError, match="no temperature"):
        method.temperature(8, 4, 100, 0.02)
    with pytest.raises(InputError, match="must be below"):
        settings(codes=1000, epsilon=1e-3).check_batch(64)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_symmetric_loss_alone_does_not_depend_on_the_order_of_views(symmetric: bool) -> None:
    model, x = build(settings(symmetric=symmetric)).eval(), features()
    assert torch.allclose(model(batch_of(x))[0], model(batch_of(x.flip(0)))[0]) == symmetric


def test_loss_does_not_depend_on_the_order_of_images_or_codes() -> None:
    model, x = build(settings()), features()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    before = model(batch_of(x))[0]
    torch.testing.assert_close(model(batch_of(x[:, order]))[0], before)
    model.dictionary = model.dictionary[torch.randperm(C, generator=torch.Generator().manual_seed(3))]
    torch.testing.assert_close(model(batch_of(x))[0], before)


def test_the_dictionary_is_frozen_and_that_of_the_generator() -> None:
    model = build(settings())
    assert not any("dictionary" in name for name, _ in model.named_parameters())
    assert torch.equal(build(settings()).dictionary, model.dictionary)
    assert not torch.equal(build(settings(), seed=1).dictionary, model.dictionary)


def test_a_temperature_that_is_given_takes_the_place_of_the_closed_form() -> None:
    assert build(settings(temperature=0.5)).tau == 0.5
    assert build(settings()).tau == method.temperature(F, N, C, 1e-3)


def test_codes_are_the_arg_max_of_the_logits() -> None:
    model = build(settings()).eval()
    h = model.embed(features()[0])
    assert torch.equal(model.codes(h), (h @ model.dictionary.double().T).argmax(-1))


def test_parts_of_a_batch_are_matched_to_the_prior_each_on_its_own() -> None:
    """As on several devices in the authors' code, with BatchNorm over all of them."""
    settings = method.Settings(codes=C, embedding_dim=F, batch_parts=2, form="tanh")
    built = build(settings)
    assert built.tau == method.temperature(F, N // 2, C, settings.epsilon)
    loss, terms = built(batch_of(features()))
    h = torch.stack([torch.tanh(built.norm(built.linear(view))) for view in features()]) / built.tau
    parts = [
        method.dictionary_loss(part, built.dictionary, 1.0, prior="reverse", symmetric=True)
        for part in (h[:, : N // 2], h[:, N // 2 :])
    ]
    torch.testing.assert_close(loss, (parts[0][0] + parts[1][0]) / 2)
    for name, value in terms.items():
        torch.testing.assert_close(value, (parts[0][1][name] + parts[1][1][name]) / 2)
    with pytest.raises(InputError, match="batch_parts 5"):
        method.Settings(batch_parts=5).check_batch(64)
