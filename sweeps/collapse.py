"""When embeddings count as collapsed: the rules by which reports find collapses and trials in training are stopped.

The measures are those of docs/collapse.md, by their names without the part before the slash: `collapse/codes_used`
of a finished trial and `train/codes_used` of an epoch are the same measure of other images.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf, nan
from typing import NamedTuple

from sweeps.record import TRAIN

LOW_SPREAD = 0.1
FEW_OF_THE_CODES = 0.5
LOW_RANK = 0.1
LOW_VARIATION = 0.05
CLASSES_UNKNOWN = 4
"""So many classes are taken for granted where there are no labels: a perplexity below half of it is less than a bit."""


class Collapse(StrEnum):
    REPRESENTATION = "representation"  # All embeddings are equal.
    CLUSTER = "cluster"  # Only few codes are used.
    DIMENSIONAL = "dimensional"  # The embeddings span few dimensions.
    INTRA_CLUSTER = "intra-cluster"  # The embeddings of a code are equal.


RULES = {
    Collapse.REPRESENTATION: f"embedding_std below {LOW_SPREAD:g}",
    Collapse.CLUSTER: "fewer codes in use than classes, or a perplexity of the codes below half of that, and at most "
    "half of the codes that could be in use",
    Collapse.DIMENSIONAL: f"an effective rank (RankMe) below {LOW_RANK:.0%} of the embedding's dimensions",
    Collapse.INTRA_CLUSTER: f"intra_cluster_variance below {LOW_VARIATION:g}",
}
"""The rule of each kind in words."""


@dataclass(frozen=True)
class Sizes:
    """What the rules must know beside the measures; NaN where a method has no such number, and then no rule holds.
    `classes` is 0 where the images have no labels; these count as images of CLASSES_UNKNOWN classes.

    `codes` and `dimensions` are those of the method's settings, `images` is the number of images that were measured,
    which bounds how many codes can be in use and the rank.
    """

    classes: float = nan
    codes: float = nan
    dimensions: float = nan
    images: float = inf


def collapses(measures: Mapping[str, float], sizes: Sizes) -> list[Collapse]:
    """The kinds of collapse that the measures show; one that was not measured, or is NaN, shows none.

    >>> collapses({"embedding_std": 0.02, "codes_used": 40, "effective_rank": 3.0}, Sizes(10, 2048, 128))
    [<Collapse.REPRESENTATION: 'representation'>, <Collapse.DIMENSIONAL: 'dimensional'>]
    """
    # `min` keeps a first value that is NaN, and a comparison with NaN is false.
    usable, rank = min(sizes.codes, sizes.images), min(sizes.dimensions, sizes.images)
    used, perplexity = measures.get("codes_used", nan), measures.get("code_perplexity", nan)
    classes = sizes.classes or CLASSES_UNKNOWN
    few = used < classes and used <= FEW_OF_THE_CODES * usable
    uneven = perplexity < classes / 2 and perplexity <= FEW_OF_THE_CODES * usable
    shown = {
        Collapse.REPRESENTATION: measures.get("embedding_std", nan) < LOW_SPREAD,
        Collapse.CLUSTER: few or uneven,
        Collapse.DIMENSIONAL: measures.get("effective_rank", nan) < LOW_RANK * rank,
        Collapse.INTRA_CLUSTER: measures.get("intra_cluster_variance", nan) < LOW_VARIATION,
    }
    return [kind for kind in Collapse if shown[kind]]


class Verdict(NamedTuple):
    """Why a trial is stopped: its kind of collapse, and a sentence."""

    kind: Collapse
    text: str


@dataclass(frozen=True)
class StopRule:
    """When a trial of `epochs` epochs is stopped: after at least `grace` epochs, if at each of the last `patience`
    measured ones it had the same collapse, one of `kinds`.

    It is a function of the logged epochs alone, so a resumed trial is stopped where it would have been.
    """

    kinds: Collection[Collapse]
    patience: int
    grace: int
    epochs: int
    sizes: Sizes

    def verdict(self, history: Sequence[tuple[int, Mapping[str, float]]]) -> Verdict | None:
        """Why the trial is to be stopped after the last epoch of its history (the epoch, its metrics), if it is.

        Never after the last of its epochs, since then only the evaluation is left.
        """
        measured = [metrics for _, metrics in history if f"{TRAIN}embedding_std" in metrics][-self.patience :]
        reached = history[-1][0] if history else 0
        if len(measured) < self.patience or not self.grace <= reached < self.epochs:
            return None
        epochs = ({name.removeprefix(TRAIN): value for name, value in metrics.items()} for metrics in measured)
        lasting = set(self.kinds).intersection(*(collapses(measures, self.sizes) for measures in epochs))
        kind = next((kind for kind in Collapse if kind in lasting), None)
        if kind is None:
            return None
        return Verdict(
            kind,
            f"stopped on collapse after epoch {reached} of {self.epochs}: {kind} collapse ({RULES[kind]}) at "
            f"{self.patience} measured epoch{'s' if self.patience > 1 else ''} in a row",
        )
