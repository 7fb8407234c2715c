"""What can stand in a table or figure: metrics, the symbols of axes, and the table of a sweep, all as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """How a logged metric is shown.

    `heading` stands alone; `short` stands in LaTeX under a heading `group` that neighbours share. `better` says which
    direction is ranked; None where no direction is better, or where ranking would mislead. `spread` says whether the
    standard deviation is shown.
    """

    name: str
    heading: str
    group: str
    short: str
    better: Literal["higher", "lower"] | None = "higher"
    decimals: int = 3
    spread: bool = True


@dataclass(frozen=True)
class TableSpec:
    """A table with one row for each point of a sweep.

    `columns` are in order. `essential` says what stays where space is scarce, in groups that stay or go together.
    """

    columns: tuple[Metric, ...]
    essential: tuple[tuple[str, ...], ...]


METRICS = {
    metric.name: metric
    for metric in (
        Metric("probe/accuracy", "Linear acc.", "Accuracy", "linear"),
        Metric("knn/accuracy", "k-NN acc.", "Accuracy", "k-NN"),
        # NMI rises by chance alone with the number of codes, so it cannot rank rows that use more or fewer of them.
        Metric("codes/nmi", "NMI (codes)", "Codes", "NMI", better=None),
        Metric("codes/nmi_chance", "NMI (chance)", "Codes", "chance", better=None, spread=False),
        Metric("codes/ami", "AMI (codes)", "Codes", "AMI"),
        Metric("codes/ari", "ARI (codes)", "Codes", "ARI"),
        Metric("codes/accuracy", "ACC (codes)", "Codes", "ACC"),
        Metric("collapse/codes_used", "Codes used", "Codes", "used", better=None, decimals=0, spread=False),
        Metric("kmeans/nmi", "NMI (k-means)", "k-means", "NMI"),
        Metric("kmeans/ami", "AMI (k-means)", "k-means", "AMI"),
        Metric("collapse/effective_rank", "Eff. rank", "Eff.", "rank", better=None, decimals=1, spread=False),
    )
}

SWEEP_TABLE = TableSpec(
    columns=tuple(METRICS.values()),
    essential=(
        ("probe/accuracy",),
        ("codes/ami",),
        ("codes/nmi", "codes/nmi_chance"),
        ("collapse/codes_used",),
        ("knn/accuracy",),
        ("kmeans/nmi", "kmeans/ami"),
        ("codes/accuracy",),
        ("collapse/effective_rank",),
        ("codes/ari",),
    ),
)

SYMBOLS = {
    "method.beta": "β",
    "method.codes": "c",
    "method.embedding_dim": "f",
    "method.temperature": "τ",
    "method.epsilon": "ε",
    "optimizer.lr": "learning rate",
}


def leaves(axes: Sequence[str]) -> list[str]:
    """A short name for each axis: the last part of its key, or the whole key where two axes share that part."""
    ends = [axis.rsplit(".", 1)[-1] for axis in axes]
    return [end if ends.count(end) == 1 else axis for axis, end in zip(axes, ends, strict=True)]


def headings(axes: Sequence[str]) -> list[str]:
    """Each axis as a reader knows it: the paper's symbol, or its short name in words."""
    return [SYMBOLS.get(axis, leaf.replace("_", " ")) for axis, leaf in zip(axes, leaves(axes), strict=True)]
