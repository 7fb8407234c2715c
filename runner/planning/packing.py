"""Which trials are trained together as one model."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from cplearn.errors import InputError
from runner.planning.plan import Job

if TYPE_CHECKING:
    from cplearn.training import Footprint

MEMORY_SHARE = 0.6
"""Part of a slot's memory that a pack may fill; the rest is for data, evaluation and fragmentation."""

BUSY = 2e9
"""Operations of a training step from which on a pack is no faster on a CPU than its members one after the other.

Arithmetic takes most of such a step, of which a pack saves none; its grouped convolutions and the members' activations,
which no longer fit the caches together, make it slower (`make bench PARTS=widths` measures both sides of the limit)."""
AUTO_ON_CPUS = f"on a CPU, --packing auto packs steps of less than {BUSY / 1e9:g} GFLOP only"


def parse(text: str | int) -> int | None:
    """A packing as written in a sweep file or on the command line: a width, `off` (1), or `auto` (None).

    Raises InputError for anything else.
    """
    if text == "auto":
        return None
    if text == "off":
        return 1
    try:
        width = int(text)
    except ValueError:
        width = 0
    if width < 1:
        raise InputError(f"packing must be auto, off or a number of trials, not {text!r}", key="packing")
    return width


def group(
    jobs: Iterable[Job],
    width: int | None,
    slots: int = 1,
    fitting: Callable[[Job], int] | None = None,
    epochs: Mapping[str, int] | None = None,
    *,
    by_seed: bool = False,
) -> list[list[Job]]:
    """Jobs in packs that can be trained as one model, in the order of the jobs.

    A `width` fixes the largest pack. With None, packs are as wide as leaves work for each of the `slots` that run at
    once, and as `fitting` (asked once for each kind of job: how many such members a pack should have, see `widest`)
    allows.
    Trials that cannot be stacked stay alone whatever the width. `by_seed` keeps seeds apart, so that work cut short has
    one seed everywhere first.
    `epochs` says from which epoch the jobs of some keys go on; those of a pack must agree.
    """
    place: dict[str, int] = {}
    kinds: dict[str, list[Job]] = {}
    for job in jobs:
        place[job.key] = len(place)
        alike = [
            job.fingerprint,
            job.trial.pack_signature(),
            (epochs or {}).get(job.key, 0),
            job.trial.seed if by_seed else None,
        ]
        kinds.setdefault(json.dumps(alike, sort_keys=True), []).append(job)
    packs = []
    for members in kinds.values():
        most = 1 if not members[0].trial.stackable else width or math.ceil(len(members) / slots)
        if width is None and most > 1 and fitting:
            most = max(1, min(most, fitting(members[0])))
        packs += _even(members, math.ceil(len(members) / most))
    return sorted(packs, key=lambda pack: place[pack[0].key])


def widest(footprint: Footprint, memory: float, on_gpu: bool) -> int:
    """How many members of a `footprint` a pack should have at most: as many as fit into a slot of `memory` bytes, and
    on a CPU one alone where its steps are busy with arithmetic. 0 where not even one fits."""
    fitting = int(MEMORY_SHARE * memory / footprint.memory)
    return fitting if on_gpu or footprint.operations < BUSY else min(fitting, 1)


def _even(jobs: Sequence[Job], parts: int) -> list[list[Job]]:
    """Jobs cut into parts whose sizes differ by at most one."""
    bounds = [round(i * len(jobs) / parts) for i in range(parts + 1)]
    return [list(jobs[a:b]) for a, b in itertools.pairwise(bounds)]


def describe(packs: Sequence[Sequence[Job]]) -> str:
    """How trials were packed, `Trained together in packs: 2 of 5, 1 of 4 and 2 trials alone.`; empty if all run alone.

    A second sentence counts the trials that cannot be stacked.
    """
    stacked = [pack for pack in packs if pack[0].trial.stackable]
    never = len(packs) - len(stacked)
    sentences = [_widths(stacked)]
    if never:
        sentences.append(f"timm models cannot be stacked: {never} trial{'s' if never > 1 else ''} alone.")
    return " ".join(filter(None, sentences))


def _widths(packs: Sequence[Sequence[Job]]) -> str:
    widths = sorted((len(pack) for pack in packs), reverse=True)
    if not widths or widths[0] == 1:
        return ""
    parts = [f"{widths.count(w)} of {w}" for w in dict.fromkeys(widths) if w > 1]
    alone = widths.count(1)
    parts += [f"{alone} trial{'s' if alone > 1 else ''} alone"] if alone else []
    return f"Trained together in packs: {' and '.join(filter(None, [', '.join(parts[:-1]), parts[-1]]))}."
