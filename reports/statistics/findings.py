"""What the numbers of a sweep say in plain words: collapses, rows at chance or below a baseline, probes that gave up.

Pure functions of a frame of runs, as `tables.number_rows` gives it; each states its rule, and no finding is made of a
metric that was not logged. A row is judged by its mean over the seeds that have finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports import spelling
from reports.statistics import aggregate

FEW_OF_THE_CODES = 0.5
LOW_RANK = 0.1
LOW_SPREAD = 0.1
LOW_VARIATION = 0.05
AT_CHANCE = 0.1
CODES, DIMENSIONS, HIDDEN = (f"params.method.{name}" for name in ("codes", "embedding_dim", "hidden_dim"))
MEANS = (
    *("collapse/codes_used", "collapse/code_perplexity", "collapse/effective_rank", "collapse/embedding_std"),
    *("collapse/intra_cluster_variance", "codes/ami", "codes/nmi", "codes/nmi_chance", "probe/accuracy"),
    *("probe/converged", "kmeans/clusters", CODES, DIMENSIONS),
)


@dataclass(frozen=True)
class Finding:
    """`title` in a word or two, one of `items` for each row it concerns, and the `rule` that was applied."""

    title: str
    items: tuple[str, ...]
    rule: str


def findings(runs: pd.DataFrame, names: Mapping[Any, str], test_images: int | None = None) -> list[Finding]:
    """All findings, the graver first. `names` are those of the rows; `test_images` bounds how many codes can be in use
    (unknown: None)."""
    means = row_means(runs)
    checks: tuple[Callable[[], Finding | None], ...] = (
        lambda: representation_collapse(means, names),
        lambda: cluster_collapse(means, names, test_images),
        lambda: dimensional_collapse(means, names, test_images),
        lambda: intra_cluster_collapse(means, names),
        lambda: at_chance(means, names),
        lambda: below_baselines(runs, means, names),
        lambda: unfinished_probes(runs, names),
    )
    return [finding for check in checks if (finding := check()) is not None]


def row_means(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean over the finished seeds of each row, NaN where there is none; a column for each of MEANS."""
    settings = runs.reindex(columns=list(dict.fromkeys([*runs.columns, CODES, DIMENSIONS, HIDDEN])))
    for name in (CODES, DIMENSIONS, HIDDEN):
        settings[name] = pd.to_numeric(settings[name], errors="coerce")
    # Where a method has no such setting (GEDI), its embedding is the projector's hidden layer.
    settings[DIMENSIONS] = settings[DIMENSIONS].fillna(settings[HIDDEN])
    return aggregate.summarise(settings, MEANS).mean


def representation_collapse(means: pd.DataFrame, names: Mapping[Any, str]) -> Finding | None:
    spread = means["collapse/embedding_std"]
    return _finding(
        "Representation collapse",
        [f"{names[row]}: the embeddings' spread is {spread[row]:.3f}" for row in means.index[spread < LOW_SPREAD]],
        f"collapse/embedding_std below {LOW_SPREAD:g}: it is 0 where all embeddings are equal and about 1 where they "
        "fill the space.",
    )


def cluster_collapsed(means: pd.DataFrame, test_images: int | None = None) -> pd.Series:
    """Which rows have fewer codes in use than there are classes (or a perplexity of the codes below half their number),
    and at most half of those that could be in use."""
    classes = means["kmeans/clusters"].max()
    usable = means[CODES].clip(upper=test_images if test_images else np.inf)
    used, perplexity = means["collapse/codes_used"], means["collapse/code_perplexity"]
    few = (used < classes) & (used <= FEW_OF_THE_CODES * usable)
    uneven = (perplexity < classes / 2) & (perplexity <= FEW_OF_THE_CODES * usable)
    return few | uneven


def cluster_collapse(means: pd.DataFrame, names: Mapping[Any, str], test_images: int | None = None) -> Finding | None:
    items = []
    for row, mean in means[cluster_collapsed(means, test_images)].iterrows():
        perplexity = mean["collapse/code_perplexity"]
        used = f"{mean['collapse/codes_used']:,.1f}".removesuffix(".0")
        words = f" (perplexity {perplexity:.1f})" if np.isfinite(perplexity) else ""
        items.append(f"{names[row]} uses {used} of {mean[CODES]:,.0f} codes{words}")
    classes = means["kmeans/clusters"].max()
    return _finding(
        "Cluster collapse",
        items,
        f"fewer codes in use than classes ({classes:.0f}), or a perplexity of the codes below half of that, and at "
        "most half of the codes that could be in use.",
    )


def dimensional_collapse(
    means: pd.DataFrame, names: Mapping[Any, str], test_images: int | None = None
) -> Finding | None:
    possible = means[DIMENSIONS].clip(upper=test_images if test_images else np.inf)
    collapsed = means["collapse/effective_rank"] < LOW_RANK * possible
    return _finding(
        "Dimensional collapse",
        [
            f"{names[row]}: effective rank {mean['collapse/effective_rank']:.1f} of {mean[DIMENSIONS]:,.0f} dimensions"
            for row, mean in means[collapsed].iterrows()
        ],
        f"an effective rank (RankMe) below {LOW_RANK:.0%} of the embedding's dimensions.",
    )


def intra_cluster_collapse(means: pd.DataFrame, names: Mapping[Any, str]) -> Finding | None:
    variance = means["collapse/intra_cluster_variance"]
    return _finding(
        "Intra-cluster collapse",
        [
            f"{names[row]}: variance within codes is {variance[row]:.3f} of all variance"
            for row in means.index[variance < LOW_VARIATION]
        ],
        f"collapse/intra_cluster_variance below {LOW_VARIATION:g}: embeddings with the same code are nearly equal.",
    )


def at_chance(means: pd.DataFrame, names: Mapping[Any, str]) -> Finding | None:
    collapsed = means["codes/ami"] < AT_CHANCE
    return _finding(
        "Codes at chance",
        [
            f"{names[row]}: NMI {mean['codes/nmi']:.3f}, of which chance gives {mean['codes/nmi_chance']:.3f} "
            f"(AMI {mean['codes/ami']:.3f})"
            for row, mean in means[collapsed].iterrows()
        ],
        f"AMI of codes and labels below {AT_CHANCE:g}; the NMI rises with the number of codes by chance alone.",
    )


def below_baselines(runs: pd.DataFrame, means: pd.DataFrame, names: Mapping[Any, str]) -> Finding | None:
    accuracy = means["probe/accuracy"]
    roles = runs.drop_duplicates("row").set_index("row")["role"]
    baselines = [row for row in means.index if roles[row] == "baseline" and np.isfinite(accuracy[row])]
    items = []
    for row in means.index:
        under = [f"{names[other]} ({accuracy[other]:.3f})" for other in baselines if accuracy[row] < accuracy[other]]
        if roles[row] != "baseline" and under:
            items.append(f"{names[row]}: linear accuracy {accuracy[row]:.3f}, below {' and '.join(under)}")
    return _finding("Below a baseline", items, "mean linear accuracy below that of a baseline that learns nothing.")


def unfinished_probes(runs: pd.DataFrame, names: Mapping[Any, str]) -> Finding | None:
    if "probe/converged" not in runs:
        return None
    finished = runs[(runs["status"] == "FINISHED") & (runs["probe/converged"] < 1)]
    seeds = finished.groupby("row")["seed"].apply(list)
    return _finding(
        "Probe not converged",
        [f"{names[row]}: seed {', '.join(map(str, sorted(which)))}" for row, which in seeds.items()],
        "the solver of the linear probe gave up before its optimum; its accuracy may be too low.",
    )


def _finding(title: str, items: list[str], rule: str) -> Finding | None:
    return Finding(title, tuple(items), rule) if items else None


def gaps(runs: pd.DataFrame, names: Mapping[Any, str]) -> Iterator[tuple[str, int, str, str]]:
    """Row, seed, state and reason (the last line of its error) of each trial that has no result."""
    absent = runs[runs["status"] != "FINISHED"].sort_values(["row", "seed"], kind="stable")
    for row, seed, status, error in absent[["row", "seed", "status", "error"]].to_numpy(dtype=object).tolist():
        yield names[row], seed, status, spelling.last_line(error)
