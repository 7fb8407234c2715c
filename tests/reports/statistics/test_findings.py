"""Each finding with a frame of runs that gives it and with one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from frames import result
from reports.figures import canvas
from reports.statistics import findings
from reports.tables import number_rows

WELL = {
    "collapse/codes_used": 40.0,
    "collapse/code_perplexity": 30.0,
    "collapse/effective_rank": 40.0,
    "collapse/embedding_std": 0.9,
    "collapse/intra_cluster_variance": 0.5,
    "codes/ami": 0.6,
    "codes/nmi": 0.7,
    "codes/nmi_chance": 0.2,
    "probe/accuracy": 0.9,
    "probe/converged": 1.0,
    "kmeans/clusters": 10.0,
    "params.method.codes": "2048",
    "params.method.embedding_dim": "128",
}


def found(*trials: dict[str, Any], images: int | None = 360) -> list[tuple[str, tuple[str, ...]]]:
    """Title and items of the findings on trials over β; a trial with a `label` is a baseline."""
    axes = {"method.beta": [0.1, 10]}
    everyone = [{"method.beta": 0.1, **WELL}, *trials]
    one = result(axes, everyone, seeds=2)
    runs = number_rows(one)
    return [(finding.title, finding.items) for finding in findings.findings(runs, canvas.names(one, runs), images)]


def test_nothing_is_found_where_all_is_well() -> None:
    assert found() == []
    assert found({"label": "random backbone", "probe/accuracy": 0.5}) == []
    assert found({"label": "raw pixels", "status": "FAILED"}) == []


@pytest.mark.parametrize(
    ("changed", "title", "item"),
    [
        ({"collapse/embedding_std": 0.01}, "Representation collapse", "β = 10: the embeddings' spread is 0.010"),
        (
            {"collapse/codes_used": 3, "collapse/code_perplexity": 2.4},
            "Cluster collapse",
            "β = 10 uses 3 of 2,048 codes (perplexity 2.4)",
        ),
        ({"collapse/code_perplexity": 4.9}, "Cluster collapse", "β = 10 uses 40 of 2,048 codes (perplexity 4.9)"),
        (
            {"collapse/effective_rank": 12.7},
            "Dimensional collapse",
            "β = 10: effective rank 12.7 of 128 dimensions",
        ),
        (
            {"collapse/effective_rank": 20.0, "params.method.embedding_dim": None, "params.method.hidden_dim": "256"},
            "Dimensional collapse",
            "β = 10: effective rank 20.0 of 256 dimensions",
        ),
        (
            {"collapse/intra_cluster_variance": 0.049},
            "Intra-cluster collapse",
            "β = 10: variance within codes is 0.049 of all variance",
        ),
        (
            {"codes/ami": 0.09, "codes/nmi": 0.4, "codes/nmi_chance": 0.38},
            "Codes at chance",
            "β = 10: NMI 0.400, of which chance gives 0.380 (AMI 0.090)",
        ),
        ({"probe/converged": 0}, "Probe not converged", "β = 10: seed 0"),
    ],
)
def test_a_finding_names_the_row_and_its_numbers(changed: dict[str, Any], title: str, item: str) -> None:
    assert found({"method.beta": 10, **WELL, **changed}) == [(title, (item,))]


@pytest.mark.parametrize(
    "changed",
    [
        {"collapse/codes_used": 10, "collapse/code_perplexity": 9.2},
        # Of ten codes eight are in use: fewer than classes, but most of what is there.
        {"collapse/codes_used": 8, "collapse/code_perplexity": 7, "params.method.codes": "10"},
        {"collapse/effective_rank": 12.9},
        {"collapse/embedding_std": 0.11, "collapse/intra_cluster_variance": 0.06, "codes/ami": 0.11},
        # Not measured, or not a method with codes.
        {name: float("nan") for name in WELL if name.startswith(("collapse", "codes", "params"))},
    ],
)
def test_what_is_within_the_rule_is_no_finding(changed: dict[str, Any]) -> None:
    assert found({"method.beta": 10, **WELL, **changed}) == []


def test_few_images_bound_what_can_be_expected() -> None:
    small = {"collapse/effective_rank": 3.0, "collapse/codes_used": 9.0, "collapse/code_perplexity": 8.0}
    titles = [title for title, _ in found({"method.beta": 10, **WELL, **small}, images=None)]
    assert titles == ["Cluster collapse", "Dimensional collapse"]
    # Of 17 test images nine different codes are more than half, and 3 of 17 possible dimensions are many.
    assert found({"method.beta": 10, **WELL, **small}, images=17) == []


def test_rows_are_compared_with_every_baseline_by_their_mean_over_seeds() -> None:
    baselines = [{"label": name, "probe/accuracy": value} for name, value in (("random", 0.5), ("pixels", 0.8))]
    seeds = [{"method.beta": 10, "seed": s, **WELL, "probe/accuracy": v} for s, v in ((0, 0.81), (1, 0.75))]
    assert found(*baselines, *seeds) == [
        ("Below a baseline", ("β = 10: linear accuracy 0.780, below pixels (0.800)",)),
    ]


def test_trials_without_a_result_are_listed_with_the_reason() -> None:
    trials = [
        {"method.beta": 10, "seed": 1, "status": "MISSING"},
        {"method.beta": 10, "seed": 0, "status": "FAILED", "error": "Traceback\n  ...\nFloatingPointError: nan\n"},
    ]
    one = result({"method.beta": [0.1, 10]}, [{"method.beta": 0.1, **WELL}, *trials], seeds=2)
    runs = number_rows(one)
    assert list(findings.gaps(runs, canvas.names(one, runs))) == [
        ("β = 10", 0, "FAILED", "FloatingPointError: nan"),
        ("β = 10", 1, "MISSING", ""),
    ]
