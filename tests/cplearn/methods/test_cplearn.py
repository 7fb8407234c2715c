"""CPLearn's loss against a naive float64 NumPy version written from the equations, and its properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from cplearn.dictionary import codes
from cplearn.errors import InputError
from cplearn.methods import cplearn as method
from support import batch_of

N, F_IN, F, C, K = 6, 5, 8, 12, 2


def naive_loss(views: list[np.ndarray], w: np.ndarray, s: method.Settings, weight: np.ndarray) -> tuple[float, ...]:
    """Eq. 7 from backbone features (n, F_in) of two views, loop by loop; returns loss, invariance, prior."""

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


def build(settings: list[method.Settings], seed: int = 0) -> method.Method:
    draws = [torch.Generator().manual_seed(seed + k) for k in range(len(settings))]
    built = method.Method(settings, F_IN, N, draws, 0).double()
    built.linear.weight.data.normal_(generator=draws[0])
    return built


def features(members: int = K, n: int = N) -> torch.Tensor:
    return torch.randn(members, 2, n, F_IN, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def settings(**changes: object) -> method.Settings:
    # A large epsilon keeps every probability within reach of the naive exponentials.
    return method.Settings(**{"codes": C, "embedding_dim": F, "epsilon": 1e-3, "beta": 0.7} | changes)


@pytest.mark.parametrize("form", ["l2", "tanh"])
@pytest.mark.parametrize("prior", ["forward", "reverse"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_values_and_gradients_match_the_equations(form: str, prior: str, symmetric: bool) -> None:
    each = [settings(form=form, prior=prior, symmetric=symmetric, beta=beta) for beta in (0.7, 3.0)]
    model, x = build(each), features().requires_grad_()
    loss, terms = model(batch_of(x))
    loss.sum().backward()
    for k, s in enumerate(each):
        w = model.dictionary[k].numpy().astype(float)
        weight = model.linear.weight[k].detach().numpy()
        views = [view.copy() for view in x[k].detach().numpy()]
        expected = naive_loss(views, w, s, weight)
        got = [loss[k].item(), terms["invariance"][k].item(), terms["prior"][k].item()]
        assert got == pytest.approx(expected, rel=1e-10)
        # Central differences of the naive version in a few inputs of both views.
        for v, i, j in itertools.product((0, 1), (0, N - 1), (0, F_IN - 1)):
            step, values = 1e-5, []
            for sign in (1, -1):
                moved = [view.copy() for view in views]
                moved[v][i, j] += sign * step
                values.append(naive_loss(moved, w, s, weight)[0])
            assert x.grad[k, v, i, j].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-7)


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
    code = codes.rademacher(1, f, torch.Generator().manual_seed(0)).double()[0]
    h = method.embedding((1e3 * code).expand(n, f), form)
    largest = (h[0] @ code).item() / method.temperature(f, n, c, epsilon)
    expected = math.log((1 - epsilon * (c - 1)) / epsilon)
    assert largest == pytest.approx(expected * (math.sqrt(n) if form == "tanh" else 1))


def test_no_temperature_where_the_codes_leave_no_probability() -> None:
    with pytest.raises(ValueError, match="no temperature"):
        method.temperature(8, 4, 100, 0.02)
    with pytest.raises(InputError, match="must be below"):
        settings(codes=1000, epsilon=1e-3).check_batch(64)


def test_symmetric_loss_does_not_depend_on_the_order_of_views() -> None:
    model, x = build([settings(), settings(beta=2.0)]), features()
    model.eval()
    torch.testing.assert_close(model(batch_of(x))[0], model(batch_of(x.flip(1)))[0])
    one_sided = build([settings(symmetric=False)])
    one_sided.eval()
    assert not torch.allclose(one_sided(batch_of(x[:1]))[0], one_sided(batch_of(x[:1].flip(1)))[0])


def test_loss_does_not_depend_on_the_order_of_images_or_codes() -> None:
    model, x = build([settings()]), features(1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    before = model(batch_of(x))[0]
    torch.testing.assert_close(model(batch_of(x[:, :, order]))[0], before)
    model.dictionary = model.dictionary[:, torch.randperm(C, generator=torch.Generator().manual_seed(3))]
    torch.testing.assert_close(model(batch_of(x))[0], before)


def test_the_dictionary_is_frozen_and_each_members_own() -> None:
    model = build([settings(), settings()])
    assert not any("dictionary" in name for name, _ in model.named_parameters())
    assert not torch.equal(model.dictionary[0], model.dictionary[1])
    alone = build([settings()])
    assert torch.equal(alone.dictionary[0], model.dictionary[0])


def test_members_do_not_influence_each_other() -> None:
    each = [settings(beta=0.1), settings(beta=5.0, temperature=0.5)]
    model, x = build(each), features()
    together = model(batch_of(x))[0]
    for k in range(K):
        alone = method.Method([each[k]], F_IN, N, [torch.Generator().manual_seed(k)], 0).double()
        alone.linear.weight.data.copy_(model.linear.weight.data[k : k + 1])
        torch.testing.assert_close(alone(batch_of(x[k : k + 1]))[0], together[k : k + 1], rtol=1e-12, atol=0)


def test_codes_are_the_arg_max_of_the_logits() -> None:
    model = build([settings(), settings()]).eval()
    h = model.embed(features()[:, 0])
    expected = torch.stack([(h[k] @ model.dictionary[k].double().T).argmax(-1) for k in range(K)])
    assert torch.equal(model.codes(h), expected)
