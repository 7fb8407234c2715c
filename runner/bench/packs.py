"""The digits β sweep as packs, against one process a trial; whole command to whole command."""

from __future__ import annotations

import os

from runner.bench.commands import BETA, workplace
from runner.bench.measure import Goal, Pair, Part

GOAL = Goal("at least", 1.5)
TRIALS = 9

Packing = tuple[str, int]
"""What `--packing` is given, and the CPUs of a pack."""


def run(quick: bool) -> Part:
    """Seconds of `cplearn sweep sweeps/beta.yaml --packing off` over those with packs."""
    cpus = os.cpu_count() or 1
    small = ["--epochs", "1", "--set", "backbone.width=4", "--set", "method.codes=128"] if quick else []
    lone: Packing = ("off", 1)
    automatic: Packing = ("auto", 1)
    others: list[Packing] = [] if quick else [("3", 1), (str(TRIALS), cpus)]
    # All take one turn; then the two that the goal is about take two more.
    turns = [[lone, automatic, *others]] + ([] if quick else [[lone, automatic]] * 2)
    numbers: dict[Packing, list[float]] = {side: [] for side in turns[0]}
    for turn in turns:
        for packing, threads in turn:
            numbers[packing, threads].append(_sweep(packing, threads, small))
    return Part(
        "The digits β sweep as packs over one process a trial",
        "Seconds of the whole command `cplearn sweep sweeps/beta.yaml` without a GPU (nine trials and two "
        "baselines; start of Ray, training, evaluation, tracking, tables), each time with a fresh tracking store. "
        f"One process a trial: `--packing off`, 1 CPU each, workers reused. The machine has {cpus} CPUs; the goal "
        "was set for 2, and concerns `--packing auto`: as many packs as CPUs.",
        [
            Pair(
                f"`--packing {packing} --cpus-per-trial {threads}`",
                "s",
                ("one process a trial", "packs"),
                numbers[lone],
                numbers[packing, threads],
                GOAL if packing == "auto" else None,
            )
            for packing, threads in turns[0][1:]
        ],
    )


def _sweep(packing: str, cpus: int, options: list[str]) -> float:
    with workplace() as place:
        resources = ["--packing", packing, "--cpus-per-trial", str(cpus), "--gpus-per-trial", "0"]
        return place.seconds("sweep", str(BETA), *resources, *options)
