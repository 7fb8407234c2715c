"""The rules of collapse on measures that are written out, and when a trial is stopped by them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sweeps.collapse import RULES, Collapse, Sizes, StopRule, collapses

WELL = {
    "embedding_std": 0.9,
    "codes_used": 40.0,
    "code_perplexity": 30.0,
    "effective_rank": 40.0,
    "intra_cluster_variance": 0.5,
}
SIZES = Sizes(classes=10, codes=2048, dimensions=128, images=360)
REPRESENTATION, CLUSTER, DIMENSIONAL, INTRA_CLUSTER = Collapse


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, []),
        ({"embedding_std": 0.099}, [REPRESENTATION]),
        ({"codes_used": 9.0}, [CLUSTER]),
        ({"code_perplexity": 4.9}, [CLUSTER]),
        ({"effective_rank": 12.7}, [DIMENSIONAL]),
        ({"intra_cluster_variance": 0.049}, [INTRA_CLUSTER]),
        ({"embedding_std": 0.1, "codes_used": 10.0, "code_perplexity": 5.0, "effective_rank": 12.8}, []),
        (dict.fromkeys(WELL, 0.0), list(Collapse)),
        (dict.fromkeys(WELL, math.nan), []),
    ],
)
def test_each_kind_of_collapse_has_its_rule(changes: dict[str, float], kinds: list[Collapse]) -> None:
    assert collapses({**WELL, **changes}, SIZES) == kinds


def test_what_is_not_known_is_no_collapse() -> None:
    assert collapses({}, SIZES) == []
    assert collapses({"codes_used": 1.0, "code_perplexity": 1.0, "effective_rank": 0.0}, Sizes(classes=10)) == []
    # Without a number of codes or dimensions, however few images there are.
    few = {"codes_used": 1.0, "code_perplexity": 1.0, "effective_rank": 1.0}
    assert collapses(few, Sizes(classes=10, images=100)) == []


def test_few_images_bound_what_can_be_expected() -> None:
    measures = {"codes_used": 9.0, "effective_rank": 3.0}
    assert collapses(measures, SIZES) == [CLUSTER, DIMENSIONAL]
    assert collapses(measures, Sizes(10, 2048, 128, images=17)) == []


def history(*epochs: dict[str, float] | None) -> list[tuple[int, dict[str, float]]]:
    """Epochs from 1 on, each measured as well as it can be but for the changes; None was not measured."""
    logged = [{} if changes is None else {**WELL, **changes} for changes in epochs]
    return [
        (number, {"train/loss": 1.0, **{f"train/{name}": value for name, value in measures.items()}})
        for number, measures in enumerate(logged, 1)
    ]


FLAT, FEW = {"embedding_std": 0.01}, {"codes_used": 2.0}
BOTH = {**FLAT, **FEW}


def stopped(*epochs: dict[str, float] | None, **changes: Any) -> Collapse | None:
    """The collapse on which a trial of nine epochs is stopped after these ones."""
    settings = {"kinds": list(Collapse), "patience": 2, "grace": 1, "epochs": 9, "sizes": SIZES, **changes}
    verdict = StopRule(**settings).verdict(history(*epochs))
    return verdict.kind if verdict else None


@pytest.mark.parametrize(
    ("epochs", "changes", "kind"),
    [
        ([], {}, None),
        ([FLAT], {}, None),
        ([FLAT, FLAT], {}, REPRESENTATION),
        ([{}, FLAT, FLAT], {}, REPRESENTATION),
        ([FLAT, FLAT, {}], {}, None),
        ([FLAT, {}, FLAT], {}, None),
        # Each of the epochs in a row must have the same collapse.
        ([FLAT, FEW], {}, None),
        ([FLAT, BOTH], {}, REPRESENTATION),
        ([FEW, BOTH], {}, CLUSTER),
        ([BOTH, BOTH], {"kinds": [CLUSTER, DIMENSIONAL]}, CLUSTER),
        ([FLAT, FLAT], {"kinds": [CLUSTER]}, None),
        # Epochs without a measurement do not interrupt a row, and do not count.
        ([None, FLAT, None], {}, None),
        ([None, FLAT, None, FLAT], {}, REPRESENTATION),
        ([FLAT, FLAT, FLAT], {"grace": 4}, None),
        ([FLAT, FLAT, FLAT, FLAT], {"grace": 4}, REPRESENTATION),
        ([{}] * 7 + [FLAT, FLAT], {}, None),
        ([FLAT] * 9, {}, None),
        ([FLAT], {"patience": 1}, REPRESENTATION),
    ],
)
def test_a_trial_is_stopped_after_epochs_of_one_collapse_in_a_row(
    epochs: list[dict[str, float] | None], changes: dict[str, Any], kind: Collapse | None
) -> None:
    assert stopped(*epochs, **changes) == kind


def test_a_verdict_says_when_and_by_which_rule() -> None:
    verdict = StopRule(list(Collapse), 3, 1, 20, SIZES).verdict(history({}, FLAT, FLAT, FLAT))
    assert verdict is not None
    assert verdict.text == (
        "stopped on collapse after epoch 4 of 20: representation collapse (embedding_std below 0.1) at 3 measured "
        "epochs in a row"
    )


def test_every_kind_has_a_rule_in_words() -> None:
    assert set(RULES) == set(Collapse)
