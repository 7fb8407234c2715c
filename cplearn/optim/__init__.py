"""Optimisers for stacked members: one update of all of them, each with its own numbers; and their schedules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from cplearn.config import groups as config
from cplearn.optim.adam import Adam
from cplearn.optim.base import Optimizer
from cplearn.optim.scaling import LossScale
from cplearn.optim.schedules import learning_rates, weight_decays
from cplearn.optim.sgd import LARS, SGD

__all__ = ["LARS", "SGD", "Adam", "LossScale", "Optimizer", "build", "learning_rates", "weight_decays"]


def build(
    settings: Sequence[config.OptimizerSettings],
    parameters: Iterable[nn.Parameter],
    steps: int = 1,
    *,
    scaled: bool = False,
) -> Optimizer:
    """The optimiser of K members; they share its name and differ at most in numbers.

    `steps` is the length of the whole training, for the schedule of weight decay. `scaled`: gradients are those of
    `Optimizer.scaled(loss)`, as float16 needs.
    """
    kind = {"adam": Adam, "adamw": Adam, "sgd": SGD, "lars": LARS}[settings[0].name]
    return kind(parameters, settings, steps, scaled=scaled)
