"""The digits β sweep as packs, against one process a trial; whole command to whole command."""

from __future__ import annotations

import math
import os

from benchmarks.commands import BETA, workplace
from benchmarks.measure import Goal, Pair, Part

GOAL = Goal("at least", 1.5)
TRIALS = 9

NARROW = ("--set", "backbone.width=8")
"""A quarter of the widths: a network too small to keep even a CPU busy with arithmetic."""

Side = tuple[str, int, tuple[str, ...]]
"""What `--packing` is given, the CPUs of a pack, and further options."""


def run(quick: bool) -> Part:
    """Seconds of `cplearn sweep sweeps/beta.yaml --packing off` over those with packs."""
    cpus = os.cpu_count() or 1
    small = ("--epochs", "1", "--set", "backbone.width=4", "--set", "method.codes=128") if quick else ()
    # As many packs as CPUs.
    lone, packed = ("off", 1, small), (str(max(2, math.ceil(TRIALS / cpus))), 1, small)
    others: list[Side] = (
        [] if quick else [("3", 1, ()), (str(TRIALS), cpus, ()), ("off", 1, NARROW), ("auto", 1, NARROW)]
    )
    # All take one turn; then the two that the goal is about take two more.
    turns: list[list[Side]] = [[lone, packed, *others]] + ([] if quick else [[lone, packed]] * 2)
    numbers: dict[Side, list[float]] = {side: [] for side in turns[0]}
    for turn in turns:
        for side in turn:
            numbers[side].append(_sweep(*side))
    return Part(
        "The digits β sweep as packs over one process a trial",
        "Seconds of the whole command `cplearn sweep sweeps/beta.yaml` without a GPU (nine trials and two "
        "baselines; start of Ray, training, evaluation, tracking, tables), each time with a fresh tracking store. "
        f"One process a trial: `--packing off`, 1 CPU each, workers reused. The machine has {cpus} CPUs; the goal "
        "was set for 2, and concerns as many packs as CPUs. A pack saves overhead, not arithmetic, so `--packing auto` "
        "leaves these trials alone; with `backbone.width=8` there is less arithmetic, and it packs them.",
        [
            Pair(
                " ".join([f"`--packing {packing} --cpus-per-trial {threads}`", *options[1:]]),
                "s",
                ("one process a trial", "packs"),
                numbers["off", 1, options],
                numbers[packing, threads, options],
                GOAL if (packing, threads, options) == packed else None,
            )
            for packing, threads, options in turns[0]
            if packing != "off"
        ],
    )


def _sweep(packing: str, cpus: int, options: tuple[str, ...]) -> float:
    with workplace() as place:
        resources = ["--packing", packing, "--cpus-per-trial", str(cpus), "--gpus-per-trial", "0"]
        return place.seconds("sweep", str(BETA), *resources, *options)
