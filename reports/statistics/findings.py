"""What the numbers of a sweep say in plain words: collapses, rows at chance or below a baseline, probes that gave up.

Pure functions of a frame of runs, as `tables.number_rows` gives it; each states its rule, and no finding is made of a
metric that was not logged. A row is judged by its mean over the seeds that have finished.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from reports import spelling
from reports.statistics import inference
from sweeps.collapse import CLASSES_UNKNOWN, LOW_RANK, LOW_SPREAD, LOW_VARIATION, Collapse, Sizes, collapses
from sweeps.record import BASELINE

TEXTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
AT_CHANCE = 0.1
VIEWS, MOST_CHOSEN = "select/view_information", 3
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
    collapse = collapsed(means, test_images)

    def each(title: str, which: pd.Series) -> list[str]:
        """What the finding says, with the means of the row in it, of each of some rows."""
        rows = means[which].rename(columns={DIMENSIONS: "dimensions"})
        return [f"{names[row]}: {TEXTS[title]['item'].format_map(mean.to_dict())}" for row, mean in rows.iterrows()]

    classes = means["kmeans/clusters"].max()
    many = f"classes ({classes:.0f})" if np.isfinite(classes) else f"{CLASSES_UNKNOWN}, as no image has a label"
    limits = {"LOW_SPREAD": LOW_SPREAD, "LOW_RANK": LOW_RANK, "LOW_VARIATION": LOW_VARIATION, "AT_CHANCE": AT_CHANCE}
    by_means = {
        "Representation collapse": collapse[Collapse.REPRESENTATION],
        "Dimensional collapse": collapse[Collapse.DIMENSIONAL],
        "Intra-cluster collapse": collapse[Collapse.INTRA_CLUSTER],
        "Codes at chance": means["codes/ami"] < AT_CHANCE,
    }
    items = {title: each(title, which) for title, which in by_means.items()}
    items["Cluster collapse"] = list(_cluster_collapses(means[collapse[Collapse.CLUSTER]], names))
    items["Below a baseline"] = list(_below_baselines(runs, means["probe/accuracy"], names))
    items["Probe not converged"] = list(_unfinished_probes(runs, names))
    return [
        Finding(title, tuple(items[title]), text["rule"].format_map({**limits, "many": many}))
        for title, text in TEXTS.items()
        if items.get(title)
    ]


def choice_without_labels(runs: pd.DataFrame, names: Mapping[Any, str]) -> list[Finding]:
    """The rows that a reader would choose where no image has a label; empty where no row has what it takes."""
    means = inference.by_row(runs, [VIEWS, "collapse/codes_used"]).mean().dropna(subset=VIEWS)
    best = means.sort_values(VIEWS, ascending=False, kind="stable")[:MOST_CHOSEN]
    items = tuple(
        f"{names[row]}: view information {mean[VIEWS]:.3f}, {mean['collapse/codes_used']:,.0f} codes in use"
        for row, mean in best.iterrows()
    )
    title = "Best without labels"
    return [Finding(title, items, TEXTS[title]["rule"])] if items else []


def row_means(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean over the finished seeds of each row, NaN where there is none; a column for each of MEANS."""
    settings = runs.reindex(columns=list(dict.fromkeys([*runs.columns, CODES, DIMENSIONS, HIDDEN])))
    for name in (CODES, DIMENSIONS, HIDDEN):
        settings[name] = pd.to_numeric(settings[name], errors="coerce")
    # Where a method has no such setting (GEDI), its embedding is the projector's hidden layer.
    settings[DIMENSIONS] = settings[DIMENSIONS].fillna(settings[HIDDEN])
    return inference.by_row(settings, MEANS).mean()


def collapsed(means: pd.DataFrame, test_images: int | None = None) -> pd.DataFrame:
    """Which rows of `row_means` have collapsed, a column of booleans for each kind, by the rules of `sweeps.collapse`.

    The number of classes is the largest number of clusters of k-means, which is asked for as many as there are classes;
    without labels there is none.
    """
    classes, images = means["kmeans/clusters"].fillna(0).max(), test_images or np.inf
    flags = []
    rows: Any = means.rename(columns=lambda name: name.removeprefix("collapse/")).to_dict("records")
    for mean in rows:
        kinds = collapses(mean, Sizes(classes, mean[CODES], mean[DIMENSIONS], images))
        flags.append([kind in kinds for kind in Collapse])
    return pd.DataFrame(flags, means.index, list(Collapse), dtype=bool)


def _cluster_collapses(means: pd.DataFrame, names: Mapping[Any, str]) -> Iterator[str]:
    for row, mean in means.iterrows():
        perplexity = mean["collapse/code_perplexity"]
        used = f"{mean['collapse/codes_used']:,.1f}".removesuffix(".0")
        words = f" (perplexity {perplexity:.1f})" if np.isfinite(perplexity) else ""
        yield f"{names[row]} uses {used} of {mean[CODES]:,.0f} codes{words}"


def _below_baselines(runs: pd.DataFrame, accuracy: pd.Series, names: Mapping[Any, str]) -> Iterator[str]:
    is_baseline = runs.drop_duplicates("row").set_index("row")["role"].reindex(accuracy.index) == BASELINE
    baselines = accuracy[is_baseline].dropna()
    for row, mean in accuracy[~is_baseline].items():
        if under := [f"{names[other]} ({value:.3f})" for other, value in baselines.items() if mean < value]:
            yield f"{names[row]}: linear accuracy {mean:.3f}, below {' and '.join(under)}"


def _unfinished_probes(runs: pd.DataFrame, names: Mapping[Any, str]) -> Iterator[str]:
    if "probe/converged" in runs:
        unfinished = runs[(runs["status"] == "FINISHED") & (runs["probe/converged"] < 1)]
        for row, seeds in unfinished.groupby("row")["seed"]:
            yield f"{names[row]}: seed {', '.join(map(str, sorted(seeds)))}"


def gaps(runs: pd.DataFrame, names: Mapping[Any, str]) -> Iterator[tuple[str, int, str, str]]:
    """Row, seed, state and reason (the last line of its error) of each trial that has no result."""
    absent = runs[runs["status"] != "FINISHED"].sort_values(["row", "seed"], kind="stable")
    for row, seed, status, error in absent[["row", "seed", "status", "error"]].to_numpy(dtype=object).tolist():
        yield names[row], seed, status, spelling.last_line(error)
