"""LeJEPA in its three published forms against naive versions of their equations and against lightly's loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cplearn.errors import InputError
from cplearn.methods import lejepa
from cplearn.methods.base import Progress
from method_checks import check_against_naive
from support import batch_of, build_method, needs_module, normal

N, D, M = 7, 4, 6
SMALL = {"hidden_dim": 8, "embedding_dim": D, "directions": M}


def naive_statistic(x: np.ndarray, t: np.ndarray) -> float:
    """∫ |(1/n) Σ exp(i t x) - exp(-t²/2)|² exp(-t²/2) dt of numbers x (n,) by the trapezoidal rule on the knots t."""
    values = []
    for knot in t:
        found = sum(complex(math.cos(knot * number), math.sin(knot * number)) for number in x) / len(x)
        values.append(abs(found - math.exp(-(knot**2) / 2)) ** 2 * math.exp(-(knot**2) / 2))
    return sum((values[k] + values[k + 1]) / 2 * (t[k + 1] - t[k]) for k in range(len(t) - 1))


def naive(z: np.ndarray, directions: np.ndarray, form: str, weight: float | None = None) -> float:
    """The loss of embeddings (V, n, d), as the paper's algorithms and both other programs have it, loop by loop."""
    knots = {"paper": np.linspace(-5, 5, 17), "minimal": np.linspace(0, 3, 17), "eb_jepa": np.linspace(-3, 3, 10)}
    statistics = [naive_statistic(view @ a, knots[form]) for view in z for a in directions.T]
    sigreg = float(np.mean(statistics))
    if form == "eb_jepa":
        assert len(z) == 2
        return float(np.mean((z[0] - z[1]) ** 2)) + (10.0 if weight is None else weight) * sigreg
    centre = (z[0] + z[1]) / 2
    invariance = np.mean([np.mean((view - centre) ** 2) for view in z])
    sigreg *= z.shape[1] * (2 if form == "minimal" else 1)
    share = {"paper": 0.05, "minimal": 0.02}[form] if weight is None else weight
    return float((1 - share) * invariance + share * sigreg)


def loss_of(method: lejepa.Method, z: torch.Tensor, step: int = 0) -> torch.Tensor:
    """The loss of embeddings: the projector is the identity."""
    method.projector = torch.nn.Identity()
    return method(batch_of(z, progress=Progress(step, 4, 3)))[0]


@pytest.mark.parametrize("weight", [None, 0.7])
@pytest.mark.parametrize(
    ("form", "views"), [("paper", 2), ("paper", 5), ("minimal", 2), ("minimal", 5), ("eb_jepa", 2)]
)
def test_each_form_and_its_gradient_match_its_equations(form: str, views: int, weight: float | None) -> None:
    method = build_method("lejepa", {**SMALL, "form": form, "weight": weight}, features=D)
    z = 1.5 * normal(views, N, D) + 0.3
    directions = method.directions(0, z).numpy()
    check_against_naive(lambda x: loss_of(method, x), lambda x: naive(x, directions, form, weight), z, rel=1e-10)


@pytest.mark.parametrize(("knots", "doubled"), [(2, False), (9, False), (10, False), (2, True), (9, True)])
def test_the_integral_is_that_over_both_sides(knots: int, doubled: bool) -> None:
    """Half of the knots with twice the weights give the integral over all."""
    x = normal(1, N, 1)
    t, weights = lejepa.quadrature(knots, 2.5, doubled)
    both = np.linspace(-2.5, 2.5, 2 * knots - 1 if doubled else knots)
    expected = naive_statistic(x.flatten().numpy(), both)
    assert lejepa.epps_pulley(x, t, weights).item() == pytest.approx(expected, rel=1e-12)


def test_settings_of_the_integral_take_the_place_of_the_forms() -> None:
    changed = build_method("lejepa", {**SMALL, "form": "eb_jepa", "knots": 17, "largest_t": 5.0})
    torch.testing.assert_close(changed.t, build_method("lejepa", SMALL).t)
    assert changed.weight == 10


def test_directions_are_unit_vectors_of_the_seed_and_the_step() -> None:
    like = normal(1)
    first, second = (build_method("lejepa", SMALL, seed=seed) for seed in (0, 1))
    drawn = first.directions(3, like)
    torch.testing.assert_close(drawn.norm(dim=0), torch.ones(M, dtype=torch.float64), rtol=1e-6, atol=0)
    assert torch.equal(drawn, build_method("lejepa", SMALL, seed=0).directions(3, like))
    assert not torch.isclose(drawn, first.directions(4, like)).any()
    assert not torch.isclose(drawn, second.directions(3, like)).any()


def test_the_statistic_of_normal_numbers_is_small_and_of_all_others_large() -> None:
    """For n draws its expectation is sqrt(2π) - sqrt(2π/3) = 1.06, less what lies beyond the largest t."""
    n, (t, weights) = 512, lejepa.quadrature(17, 3.0, doubled=True)
    draws = normal(1, n, 200)
    statistic = {
        "normal": draws,
        "wide": 2 * draws,
        "shifted": draws + 1,
        "signs": draws.sign(),
        "collapsed": torch.zeros_like(draws),
    }
    values = {name: n * lejepa.epps_pulley(x, t, weights).item() for name, x in statistic.items()}
    assert values.pop("normal") == pytest.approx(math.sqrt(2 * math.pi) - math.sqrt(2 * math.pi / 3), rel=0.15)
    assert min(values.values()) > 10


def test_a_weight_that_leaves_the_invariance_less_than_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"1 - λ < 0 in the form minimal; choose at most 1"):
        lejepa.Settings(form="minimal", weight=1.5).check_batch(64)
    lejepa.Settings(form="eb_jepa", weight=100.0).check_batch(64)


@needs_module("lightly")
def test_lightly_has_the_minimal_form() -> None:
    """Its knots, window and weights are in single precision."""
    from lightly.loss import LeJEPALoss

    z = normal(5, N, D).requires_grad_()
    criterion = LeJEPALoss(lambda_param=0.3, sigreg_num_vectors=M).double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = criterion(local_proj=z[2:], global_proj=z[:2])
        torch.manual_seed(0)
        directions = torch.nn.functional.normalize(torch.randn(D, M, dtype=torch.float64), dim=0)
    statistic = lejepa.epps_pulley(z @ directions, *lejepa.quadrature(17, 3.0, doubled=True))
    ours = 0.7 * lejepa.invariance(z) + 0.3 * N * statistic
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)
