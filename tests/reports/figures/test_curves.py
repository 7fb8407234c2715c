"""Curves along the axes of a sweep: their numbers, what is drawn of them, and where clusters collapse."""

from __future__ import annotations

import itertools
import math
from typing import Any

import matplotlib.style
import pytest

from frames import FULL, grid, result
from reports.figures import canvas, curves


@pytest.mark.parametrize(
    ("values", "log", "words"),
    [
        ([0.01, 0.1, 1], True, ()),
        ([1, 2, 4], False, ()),
        ([0, 1, 100], False, ()),
        ([True, False], False, ("true", "false")),
        (["l2", "tanh"], False, ("l2", "tanh")),
        ([1, None], False, ("1", "–")),
    ],
)
def test_the_scale_of_a_curve_follows_the_values(values: list[Any], log: bool, words: tuple[str, ...]) -> None:
    curve = curves.curve(result({"method.x": values}, grid({"method.x": values})), "method.x")
    assert (curve.name, curve.log, curve.words, curve.joined) == ("x", log, words, not words)
    drawn = curve.numbers[curve.numbers["metric"] == "codes/ami"]["x"].tolist()
    assert drawn == (list(words) or sorted(values))
    assert len(curves.draw(curve).axes) == 6, "three panels and their legends"


def test_other_axes_become_lines_of_their_own() -> None:
    axes = {"method.beta": [0.1, 1], "method.codes": [10, 100]}
    beta, codes = curves.curves(result(axes, [{"label": "raw pixels", "probe/accuracy": 0.5}, *grid(axes)]))
    assert (beta.name, beta.heading, codes.name, codes.heading) == ("beta", "β", "codes", "c")
    assert list(dict.fromkeys(beta.numbers["line"])) == ["c = 10", "c = 100", "raw pixels"]
    assert set(beta.numbers["metric"]) == {"probe/accuracy", "codes/ami", "collapse/codes_used"}
    assert beta.apart
    assert len(curves.draw(beta).axes) == 4, "three panels and one legend"


def test_random_draws_along_several_axes_are_points_without_lines() -> None:
    axes = {"method.beta": [0.1 * k for k in range(1, 9)], "optimizer.lr": [0.01 * k for k in range(1, 9)]}
    trials = [{**dict(zip(axes, pair, strict=True)), **FULL} for pair in zip(*axes.values(), strict=True)]
    curve = curves.curve(result(axes, trials), "method.beta")
    assert not curve.joined
    assert not curve.apart
    (axes_drawn, *_) = curves.draw(curve).axes
    assert {line.get_linestyle() for line in axes_drawn.get_lines()} == {"None"}


def test_a_point_without_result_is_a_gap_in_the_curve_and_a_cross_on_its_axis() -> None:
    axes = {"method.beta": [0.1, 1, 10]}
    trials = grid(axes)
    trials[1]["status"] = "FAILED"
    curve = curves.curve(result(axes, trials), "method.beta")
    probe = curve.numbers[curve.numbers["metric"] == "probe/accuracy"]
    assert probe["n"].tolist() == [1, 0, 1]
    assert math.isnan(probe["mean"].iloc[1])
    labels = curves.draw(curve).axes[0].get_legend_handles_labels()[1]
    assert labels == ["linear probe", "no result"]


def test_a_sweep_without_axes_shows_its_rows_side_by_side() -> None:
    (curve,) = curves.curves(result({}, [{"label": "raw pixels", "probe/accuracy": 0.5}, FULL]))
    assert (curve.name, curve.words) == ("rows", ("point",))


def test_without_any_finished_trial_there_is_no_curve() -> None:
    axes = {"method.beta": [1, 2]}
    trials = [{**trial, "status": "FAILED"} for trial in grid(axes)]
    assert curves.curves(result(axes, [{"label": "raw pixels", "probe/accuracy": 0.5}, *trials])) == []


def collapse(used: float) -> dict[str, float]:
    return {"collapse/codes_used": used, "collapse/code_perplexity": used, "params.method.codes": 100} | {
        "kmeans/clusters": 10,
        "probe/accuracy": 0.5,
    }


@pytest.mark.parametrize(
    ("axis", "spans"),
    [
        ([1, 2, 4, 5], [(3.0, math.inf)]),
        ([0.01, 0.1, 1, 10], [(math.sqrt(0.1), math.inf)]),
        (["a", "b", "c", "d"], [(1.5, 2.5), (2.5, 3.5)]),
    ],
)
def test_cluster_collapse_is_shaded_up_to_half_way_to_its_neighbours(
    axis: list[Any], spans: list[tuple[float, float]]
) -> None:
    trials = [{"method.beta": x, **collapse(used)} for x, used in zip(axis, (50, 12, 9, 3), strict=True)]
    curve = curves.curve(result({"method.beta": axis}, trials), "method.beta")
    found = curves.collapsed_spans(curve)
    assert [pytest.approx(span) for span in found] == spans
    assert len(curves.draw(curve).axes[0].patches) == len(spans)


def test_the_interval_of_a_mean_is_students() -> None:
    trials = [{"method.beta": 1, "seed": s, "probe/accuracy": v} for s, v in enumerate((0.1, 0.2, 0.3))]
    trials += [{"method.beta": 2, "seed": 0, "probe/accuracy": 0.5}]
    curve = curves.curve(result({"method.beta": [1, 2]}, trials, seeds=3), "method.beta")
    three, one = curve.numbers[["low", "high"]].to_numpy().tolist()
    half = 4.302653 * 0.1 / math.sqrt(3)  # the 97.5 % quantile of t with two degrees of freedom
    assert three == pytest.approx([0.2 - half, 0.2 + half], abs=1e-6)
    assert all(map(math.isnan, one))


def test_methods_without_a_setting_are_no_points_along_it() -> None:
    axes = {"arm": ["SwAV", "CPLearn"], "method.codes": [8, 16]}
    trials = [{"arm": "SwAV", **FULL}, *({"arm": "CPLearn", "method.codes": c, **FULL} for c in (8, 16))]
    rows, codes = curves.curves(result(axes, trials))
    assert (rows.name, rows.words) == ("rows", ("SwAV", "CPLearn, c = 8", "CPLearn, c = 16"))
    assert codes.name == "codes"
    assert codes.numbers[codes.numbers["metric"] == "codes/ami"]["x"].tolist() == [8, 16]


@pytest.mark.parametrize(("rows", "shown"), [(30, 30), (80, 60)])
def test_many_rows_stand_below_each_other_and_of_too_many_the_best(rows: int, shown: int) -> None:
    names = [f"method {number}" for number in range(rows)]
    trials = [
        {**FULL, "method.x": name, "probe/accuracy": number / 100, "seed": 0} for number, name in enumerate(names)
    ]
    (curve,) = curves.curves(result({"method.x": names}, trials))
    with matplotlib.style.context(canvas.STYLE):
        figure = curves.draw(curve)
        figure.draw_without_rendering()
        boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == names[rows - shown :]
    assert (f"best {shown} of {rows}" in figure.axes[0].get_title()) == (rows > shown)
    assert all(upper.y0 >= lower.y1 - 1 for upper, lower in itertools.pairwise(boxes)), "labels overlap"
