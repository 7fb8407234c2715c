"""The digits β sweep as packs, against one process a trial; whole command to whole command."""

from __future__ import annotations

import math
import os

from runner.bench.commands import BETA, workplace
from runner.bench.measure import Goal, Pair, Part

GOAL = Goal("at least", 1.5)
TRIALS = 9


def run(quick: bool) -> Part:
    """Seconds of `cplearn sweep sweeps/beta.yaml --pack 1` over those with wider packs."""
    cpus = os.cpu_count() or 1
    epochs = ["--epochs", "1", "--set", "backbone.width=4"] if quick else []
    lone = (1, 1)
    widths = [(math.ceil(TRIALS / cpus), 1)] if quick else widths_for(cpus)
    # All settings take one turn, then the two that the goal is about take theirs again.
    turns = [[lone, *widths]] if quick else [[lone, *widths], [lone, widths[0]], [lone, widths[0]]]
    numbers: dict[tuple[int, int], list[float]] = {side: [] for side in [lone, *widths]}
    for turn in turns:
        for width, threads in turn:
            numbers[width, threads].append(_sweep(width, threads, epochs))
    return Part(
        "The digits β sweep as packs over one process a trial",
        "Seconds of the whole command `cplearn sweep sweeps/beta.yaml` (nine trials and two baselines; start of Ray, "
        f"training, evaluation, tracking, tables), each time with a fresh tracking store. One process a trial: `--pack 1`, 1 "
        f"CPU each, workers reused. The machine has {cpus} CPUs; the goal was set for 2 and concerns the first row.",
        [
            Pair(
                f"pack of {side[0]}, {side[1]} CPU{'s' if side[1] > 1 else ''} each",
                "s",
                ("one process a trial", "packs"),
                numbers[lone],
                numbers[side],
                GOAL if side == widths[0] and not quick else None,
            )
            for side in widths
        ],
    )


def widths_for(cpus: int) -> list[tuple[int, int]]:
    """(width, CPUs of a pack) worth trying: as many packs as CPUs, small packs, and all trials in one on all CPUs."""
    choices = [(math.ceil(TRIALS / cpus), 1), (3, 1), (TRIALS, cpus)]
    return [choice for choice in dict.fromkeys(choices) if choice != (1, 1)]


def _sweep(width: int, cpus: int, options: list[str]) -> float:
    with workplace() as place:
        packing = ["--pack", str(width), "--cpus-per-trial", str(cpus), "--gpus-per-trial", "0"]
        return place.seconds("sweep", str(BETA), *packing, *options)
