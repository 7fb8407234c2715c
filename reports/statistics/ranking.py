"""Which of a search's points are best, as a pure function of their means."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np
import pandas as pd


def best_first(means: pd.DataFrame, objectives: Mapping[str, str]) -> list[Hashable]:
    """The index of `means`, the best point first.

    `objectives` maps columns to maximize or minimize. With several, the points that no other one beats in all come
    first (the Pareto front), then those that only these beat, and so on; within a front the first objective decides.
    Points without a finite value of each objective come last, in the order given.
    """
    upwards = [1.0 if direction == "maximize" else -1.0 for direction in objectives.values()]
    values: np.ndarray = means.reindex(columns=list(objectives)).to_numpy(dtype=float) * upwards
    known = np.all(np.isfinite(values), axis=1)
    left = np.flatnonzero(known)
    ordered: list[int] = []
    while len(left):
        own = values[left]
        no_worse = np.all(own[None] >= own[:, None], axis=2)
        better = np.any(own[None] > own[:, None], axis=2)
        beaten = np.any(no_worse & better, axis=1)
        front = left[~beaten]
        ordered += front[np.argsort(-values[front, 0], kind="stable")].tolist()
        left = left[beaten]
    return [means.index[place] for place in [*ordered, *np.flatnonzero(~known).tolist()]]
