"""Numbers of figures on inputs that can be checked by hand, and what is drawn of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from frames import EMBEDDINGS, LABELS, arrays, grid, npz, result
from reports.figures import canvas, embeddings, images, lines, plots, read_samples, samples
from reports.figures.samples import Sample
from reports.tables import number_rows

# Two classes of two images: three directions in the plane, one of them twice.


def sample(content: dict[str, np.ndarray], name: str = "β = 1", **diagnostics: list[float]) -> Sample:
    return Sample(name, diagnostics, content)


def test_the_covariance_is_measured_in_its_mean_variance() -> None:
    for scale in (1, 1e-6):
        found = embeddings.covariance(scale * np.array([[1.0, 2], [-1, -2], [1, -2], [-1, 2]]))
        np.testing.assert_allclose(found, [[0.4, 0], [0, 1.6]], atol=1e-12)
    assert embeddings.covariance(np.ones((3, 2))).tolist() == [[0, 0], [0, 0]]
    numbers = embeddings.dimension_numbers(np.array([[1.0, 3, 4], [3, 2, 0], [4, 0, 1]]))
    assert numbers["variance"].tolist() == [1, 2, 1]
    np.testing.assert_allclose(numbers["covariance"], [math.sqrt(12.5), math.sqrt(4.5), math.sqrt(8)])


def test_the_adjacency_is_the_cosine_in_the_order_asked_for() -> None:
    order = np.array([2, 0, 1, 3])
    cosine = [[1, 0, 0, 0], [0, 1, 1, -1], [0, 1, 1, -1], [0, -1, -1, 1]]
    np.testing.assert_allclose(embeddings.adjacency(EMBEDDINGS, order), cosine)
    # Means of the 2 x 2 blocks of the matrix above.
    np.testing.assert_allclose(embeddings.adjacency(EMBEDDINGS, order, most=2), [[0.5, 0], [0, 0]])


def test_similarity_of_classes_leaves_out_an_image_with_itself() -> None:
    found = embeddings.class_similarity(EMBEDDINGS, LABELS).set_index(["class", "other"])["cosine"]
    assert found.to_dict() == pytest.approx({(4, 4): 1, (4, 7): -0.5, (7, 4): -0.5, (7, 7): 0})
    lone = embeddings.class_similarity(EMBEDDINGS[:1], LABELS[:1])
    assert lone["cosine"].isna().all()


def test_spectra_are_padded_with_zeros_whose_logarithm_is_unknown() -> None:
    numbers = lines.spectrum_numbers([("a", [100.0, 1.0, 0.01]), ("b", [10.0])])
    assert numbers["singular_value"].tolist() == [100, 1, 0.01, 10, 0, 0]
    assert numbers["log10"].tolist()[:4] == [2, 0, -2, 1]
    assert numbers["log10"].isna().tolist() == [False] * 4 + [True] * 2
    (axes,) = lines.draw_spectrum(numbers).axes
    assert axes.lines[1].get_ydata().tolist() == [1, -8, -8], "zeros lie ten decades below the largest"


def test_the_use_of_codes_is_sorted_and_of_used_codes_only() -> None:
    numbers = lines.usage_numbers([("a", [0, 3, 0, 1]), ("b", [5, 5])])
    assert numbers[["row", "codes", "rank", "code", "images", "share"]].to_numpy(dtype=object).tolist() == [
        *(["a", 4, 1, 1, 3, 0.75], ["a", 4, 2, 3, 1, 0.25]),
        *(["b", 2, 1, 0, 5, 0.5], ["b", 2, 2, 1, 5, 0.5]),
    ]
    (legend,) = lines.draw_usage(numbers).legends
    assert [text.get_text() for text in legend.get_texts()] == ["a (2 of 4)", "b (2 of 2)"]


def test_mixtures_are_read_from_the_metrics_in_the_order_of_their_size() -> None:
    trials = [
        {
            "method.beta": 1,
            "seed": s,
            "collapse/entropy_100": 4.0 + s,
            "collapse/entropy_20": 8.0,
            "collapse/entropy_20_std": 0.1,
        }
        for s in (0, 1)
    ]
    trials += [{"method.beta": 2, "seed": 0}]
    runs = number_rows(result({"method.beta": [1, 2]}, trials, seeds=2))
    numbers = lines.entropy_numbers(runs, {0: "one", 1: "two"})
    assert numbers[["row", "components", "n", "mean"]].to_numpy(dtype=object).tolist() == [
        ["one", 20, 2, 8.0],
        ["one", 100, 2, 4.5],
    ]
    assert lines.draw_entropies(numbers).axes[0].get_xticks().tolist() == [20, 100]


def test_the_projection_is_that_of_the_largest_variance() -> None:
    features = np.array([[0.0, 5, 1], [0, -5, 1], [2, 0, -1], [-2, 0, -1]])
    points, share = embeddings.components(features, np.arange(4), LABELS)
    np.testing.assert_allclose(np.abs(points["x"]), [5, 5, 0, 0], atol=1e-9)
    np.testing.assert_allclose(np.abs(points["y"]), [0, 0, 2, 2], atol=1e-9)
    assert share == pytest.approx(58 / 62)
    flat, share = embeddings.components(np.array([[1.0], [3.0]]), np.arange(2), LABELS[:2])
    assert (flat["y"].tolist(), share) == ([0, 0], 1)
    assert embeddings.components(np.ones((3, 4)), np.arange(3), LABELS[:3])[1] == 1


def test_images_stand_in_their_places() -> None:
    content = arrays()
    numbers = images.neighbour_numbers(content)
    assert numbers[numbers["query"] == 8]["image"].tolist() == [8, 9, 10]
    picture = images.montage(content, numbers, "query", 4)
    assert picture.shape == (3 * 7, 4 * 6, 3)
    assert picture[3, 3].tolist() == [0, 0, 0]
    assert picture[7 + 3, 6 + 3].tolist() == [50, 50, 50], "image 5, a neighbour of image 4"
    assert picture[2 * 7 + 3, 3 * 6 + 3].tolist() == [255, 255, 255], "no third neighbour"
    framed = images.marks(numbers, "query", pd.Series({0: 0, 4: 1, 8: 2}), 4)
    assert np.argwhere(framed).tolist() == [[0, 3]], "image 5 is of class 1, its query of class 0"
    codes = images.code_numbers(content)
    assert codes.drop_duplicates("code")["used"].tolist() == [5, 4, 3]
    code_grid, neighbours = images.plots([sample(content)])
    assert (code_grid.name, neighbours.name) == ("code-images", "neighbours")
    # Class 1 is the odd one among the images of code 0 (7 is of class 1; 8, 9 and 10 are of class 2).
    (axes,) = code_grid.draw().axes
    assert [patch.get_xy() for patch in axes.patches] == [(2 * 6 - 0.5, -0.5)]


def test_names_leave_out_what_all_rows_share_and_what_a_method_has_not() -> None:
    axes = {"arm": ["SwAV", "CPLearn"], "method.codes": [8, 16], "epochs": [20]}
    trials = [{"label": "raw pixels"}, {"arm": "SwAV", "epochs": 20}]
    trials += [{"arm": "CPLearn", "method.codes": c, "epochs": 20} for c in (8, 16)]
    one = result(axes, trials)
    assert list(canvas.names(one, number_rows(one)).values()) == [
        *("raw pixels", "SwAV", "CPLearn, c = 8", "CPLearn, c = 16"),
    ]
    lone = result({"method.beta": [1]}, grid({"method.beta": [1]}))
    assert canvas.names(lone, number_rows(lone)) == {0: "point"}


@pytest.mark.parametrize(("count", "most", "expected"), [(3, 6, [0, 1, 2]), (9, 3, [0, 4, 8]), (0, 3, [])])
def test_rows_are_picked_evenly_with_both_ends(count: int, most: int, expected: list[int]) -> None:
    assert canvas.spread(range(count), most) == expected


def test_artifacts_are_asked_for_of_a_bounded_number_of_runs() -> None:
    trials = [
        {"method.beta": beta, "seed": seed, "run_id": f"{beta}/{seed}"} | ({"status": "FAILED"} if not seed else {})
        for beta in range(100)
        for seed in range(3)
    ]
    one = result({"method.beta": list(range(100))}, trials, seeds=3)
    asked: list[str] = []

    def reader(run: str, path: str) -> bytes | None:
        asked.append(run)
        return json.dumps({"code_counts": [1, 2]}).encode() if path == "diagnostics.json" else None

    runs = number_rows(one)
    found = samples.read(runs, canvas.names(one, runs), reader)
    assert len(found) == len(set(asked)) == samples.MOST_RUNS
    assert (asked[0], asked[-1]) == ("0/1", "99/1"), "the lowest seed that has finished"
    assert [s.name for s in found[:2]] == ["β = 0", "β = 4"]


def test_every_figure_is_written_with_its_numbers_and_the_same_twice(tmp_path: Path) -> None:
    axes = {"method.beta": [0.1, 1]}
    trials = [
        {**trial, "collapse/entropy_10": 5.0, "collapse/effective_rank": 2.0}
        for trial in grid(axes, **{"codes/ami": 0.5})
    ]
    diagnostics = json.dumps({"singular_values": [3.0, 1.0, 0.0], "code_counts": [5, 4, 0, 0, 0, 3]}).encode()

    def reader(run: str, path: str) -> bytes | None:
        return diagnostics if path == "diagnostics.json" else npz(arrays(int(run[-1])))

    one = result(axes, trials)
    found = list(plots(one, read_samples(one, reader)))
    assert [plot.name for plot in found] == [
        *("beta", "mixture-entropy", "spectrum", "code-usage", "covariance", "adjacency", "projection"),
        *("code-images", "neighbours"),
    ]
    for plot in found:
        once = {path.name: path.read_bytes() for path in plot.write(tmp_path)}
        assert once == {path.name: path.read_bytes() for path in plot.write(tmp_path)}
        assert once.keys() == {f"{plot.name}.{kind}" for kind in ("png", "pdf", "csv")}
        assert pd.read_csv(tmp_path / f"{plot.name}.csv").shape == plot.numbers.shape
        pixels = np.asarray(Image.open(tmp_path / f"{plot.name}.png").convert("L"))
        assert (pixels < 128).sum() > 300, "something is drawn"


def test_runs_of_other_methods_and_versions_lack_what_they_lack() -> None:
    axes = {"method.beta": [1]}
    without = {name: arrays()[name] for name in ("labels", "kept", "features", "features_scale")}
    for content, expected in ((npz(without), ["projection"]), (None, [])):
        one = result(axes, grid(axes))
        shown = read_samples(one, lambda run, path, c=content: b"{}" if path == "diagnostics.json" else c)
        assert [plot.name for plot in plots(one, shown)][1:] == expected
