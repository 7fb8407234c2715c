"""LeJEPA (Balestriero, LeCun, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics", 2025,
arXiv 2511.08544).

All views of an image must have the embedding of the mean of its global views (invariance), and the embeddings of a
batch must look like draws of a standard normal (SIGReg), which rules collapse out. Along random unit directions a the
empirical characteristic function of n projections is compared with that of a standard normal, exp(-t²/2), by the
statistic of Epps and Pulley (Algorithm 1 of the paper; Algorithm 2 is the loss):

    T(a) = n ∫ |(1/n) Σ_i exp(i t aᵀz_i) - exp(-t²/2)|² exp(-t²/2) dt
    loss = (1 - λ) · mean (z - mean over global views)² + λ · mean over views and directions T(a)

There is no teacher and no stop-gradient.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from cplearn.config.base import MethodSettings, Whole, setting
from cplearn.errors import refuse_if
from cplearn.methods import base, parts


@dataclass(frozen=True)
class Form:
    """What a published form of the loss fixes.

    The integral runs over [-`largest_t`, `largest_t`] by the trapezoidal rule with `knots` knots; if `doubled`, over
    [0, `largest_t`] with as many, and counts twice, since the integrand is even. `mixture`: the loss is (1 - λ) times
    the invariance plus λ times SIGReg with the factor n; else the mean squared difference of the two views plus λ times
    SIGReg without n.
    """

    weight: float
    knots: int
    largest_t: float
    doubled: bool
    mixture: bool


FORMS = {
    "paper": Form(weight=0.05, knots=17, largest_t=5.0, doubled=False, mixture=True),
    "minimal": Form(weight=0.02, knots=17, largest_t=3.0, doubled=True, mixture=True),
    "eb_jepa": Form(weight=10.0, knots=10, largest_t=3.0, doubled=False, mixture=False),
}


class Settings(MethodSettings):
    multi_crop = True

    name: str = setting("lejepa", "LeJEPA.")
    hidden_dim: Whole = setting(256, "Width of the projector's two hidden layers (published: 2048).", ge=1)
    embedding_dim: Whole = setting(128, "Dimensions of the embedding (published: 16 to 1024).", ge=2)
    form: Literal["paper", "minimal", "eb_jepa"] = setting(
        "paper", "Published form: the paper's, the authors' minimal example, or EB_JEPA's; see docs/methods.md."
    )
    weight: float | None = setting(
        None, "Weight λ of SIGReg; by default the form's (paper: 0.05, minimal: 0.02, eb_jepa: 10).", ge=0
    )
    directions: Whole = setting(256, "Random directions, drawn anew in every step (published: 256 to 1024).", ge=1)
    knots: Whole | None = setting(
        None, "Knots of the integral; by default the form's (paper and minimal: 17, eb_jepa: 10).", ge=2
    )
    largest_t: float | None = setting(
        None, "Largest t of the integral; by default the form's (paper: 5, minimal and eb_jepa: 3).", gt=0
    )

    def check_batch(self, batch_size: int) -> None:
        refuse_if(
            FORMS[self.form].mixture and self.weight is not None and self.weight > 1,
            "method.weight",
            f"{self.weight} leaves the invariance 1 - λ < 0 in the form {self.form}; choose at most 1",
        )


def invariance(z: Tensor) -> Tensor:
    """Mean over views, images and dimensions of the squared distance of (V, n, d) to the mean of the global views."""
    return (z - z[: base.GLOBAL_VIEWS].mean(0)).square().mean()


def quadrature(knots: int, largest_t: float, doubled: bool) -> tuple[Tensor, Tensor]:
    """Knots t >= 0 and weights, (k,) each, in float64, for the integral of an even function times exp(-t²/2).

    The trapezoidal rule on [-largest_t, largest_t]; a knot at t > 0 has the weight of -t as well. The knots are
    `knots` on that interval, or, if `doubled`, on its right half.

    >>> [x.tolist() for x in quadrature(3, 1.0, doubled=False)][0]
    [0.0, 1.0]
    """
    total = 2 * knots - 1 if doubled else knots
    step = 2 * largest_t / (total - 1)
    t = (torch.arange(total // 2, total, dtype=torch.float64) - (total - 1) / 2) * step
    weights = torch.full_like(t, 2 * step)
    weights[-1] = step
    if total % 2:
        weights[0] = step  # t = 0 is one knot, not two
    return t, weights * torch.exp(-t.square() / 2)


def epps_pulley(projections: Tensor, t: Tensor, weights: Tensor) -> Tensor:
    """Σ_k w_k |(1/n) Σ_i exp(i t_k x_i) - exp(-t_k²/2)|² of x (V, n, M) with `quadrature`; mean over V and M.

    This is the statistic of Epps and Pulley (1983) divided by n.
    """
    angles = projections.unsqueeze(-1) * t
    error = (angles.cos().mean(1) - torch.exp(-t.square() / 2)).square() + angles.sin().mean(1).square()
    return (error @ weights).mean()


class Method(base.Method[Settings]):
    """A projector of three linear maps; the codes are the dimensions of the embedding, by arg-max."""

    t: Tensor
    t_weights: Tensor

    def __init__(self, settings: Settings, inputs: base.MethodInputs) -> None:
        super().__init__(settings, settings.embedding_dim)
        self.projector = parts.MLP([inputs.features, settings.hidden_dim, settings.hidden_dim, settings.embedding_dim])
        self.form = form = FORMS[settings.form]
        self.weight = form.weight if settings.weight is None else settings.weight
        t, weights = quadrature(settings.knots or form.knots, settings.largest_t or form.largest_t, form.doubled)
        self.register_buffer("t", t, persistent=False)
        self.register_buffer("t_weights", weights, persistent=False)
        self.step_generator = inputs.step_generator

    def forward(self, batch: base.Batch) -> tuple[Tensor, dict[str, Tensor]]:
        z = parts.each_view(self.projector, batch.features)
        agree = invariance(z)
        sigreg = epps_pulley(z @ self.directions(batch.progress.step, z), self.t, self.t_weights)
        if self.form.mixture:
            sigreg = z.shape[1] * sigreg
            loss = (1 - self.weight) * agree + self.weight * sigreg
        else:
            # Of two views the mean of (z_a - z_b)² is four times that of the squared distance to their mean.
            loss = 4 * agree + self.weight * sigreg
        return loss, {"invariance": agree, "sigreg": sigreg}

    def directions(self, step: int, like: Tensor) -> Tensor:
        """Random unit vectors, the columns of (d, M), for update `step`; of the type and on the device of `like`."""
        # Drawn on the CPU they are the same on every device; the copy of pinned memory waits for no accelerator.
        shape = (self.settings.embedding_dim, self.settings.directions)
        drawn = torch.randn(shape, generator=self.step_generator(step), pin_memory=like.is_cuda)
        return F.normalize(drawn.to(like, non_blocking=True), dim=0)
