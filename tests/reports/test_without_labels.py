"""The report of a sweep on images without labels: what stands in for accuracy, and how its lack is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from frames import arrays, result
from reports.figures import curves, embeddings, images
from reports.figures.samples import Sample
from reports.render import page
from reports.render.files import to_markdown
from reports.store import SweepResult
from reports.tables import table_of_sweep
from support import ROOT

METRICS = {"select/rankme": 40.0, "collapse/effective_rank": 30.0, "collapse/embedding_std": 0.9}


@pytest.fixture
def blind() -> SweepResult:
    """Three β of two seeds, the last with a single code, and a baseline without codes."""
    points = [(0.1, 2.0, 50), (0.5, 3.0, 90), (5, 0.0, 1)]
    trials = [{"label": "raw pixels", "seed": seed, "select/alpha_req": 1.0} for seed in (0, 1)]
    trials += [
        {"method.beta": beta, "seed": seed, "select/view_information": views + seed / 10, **METRICS}
        | {"collapse/codes_used": codes, "params.method.codes": "2048"}
        for beta, views, codes in points
        for seed in (0, 1)
    ]
    trials = [{"started": "2026-11-29", "sweep": "beta", **trial} for trial in trials]
    made = result({"method.beta": [0.1, 0.5, 5]}, trials, seeds=2)
    sizes = {"classes": 0, "train_images": 500, "test_images": 100}
    return dataclasses.replace(made, about=made.about | sizes)


def test_the_table_shows_what_needs_no_labels_and_dashes_with_a_note(blind: SweepResult) -> None:
    table = table_of_sweep(blind)
    assert [column.heading for column in table.columns] == [
        *("View information", "Codes used", "RankMe (training)", "Eff. rank", "Linear acc.", "AMI (codes)")
    ]
    assert [cell.mean for cell in table.rows[1].cells] == ["3.050", "90", "40.0", "30.0", "–", "–"]
    assert [cell.mean for cell in table.baselines[0].cells] == ["–"] * 6
    assert any(note.startswith("No image has a label, so accuracies, AMI") for note in table.notes)
    assert "View information and RankMe are those of training images" in to_markdown(table)


def test_the_page_names_the_best_rows_and_what_has_collapsed(blind: SweepResult, tmp_path: Path) -> None:
    text = page.render(blind, table_of_sweep(blind), [], tmp_path, None)
    assert "β = 0.5: view information 3.050, 90 codes in use" in text
    assert text.index("Best without labels") < text.index("β = 5 uses 1 of 2,048 codes")
    assert "fewer codes in use than 4, as no image has a label" in text
    assert "500 training and 100 test images, no classes" in text


def test_curves_have_panels_that_need_no_labels(blind: SweepResult) -> None:
    (curve,) = curves.curves(blind)
    assert list(dict.fromkeys(curve.numbers["panel"])) == ["Agreement of two views", "Ranks", "Codes in use"]
    assert len(curves.draw(curve).axes) == 6
    labelled = dataclasses.replace(blind, about=blind.about | {"classes": 10})
    (curve,) = curves.curves(labelled)
    assert list(dict.fromkeys(curve.numbers["panel"])) == ["Codes in use"]


def test_figures_of_images_show_codes_in_place_of_classes() -> None:
    content = arrays()
    content["labels"] = np.full_like(content["labels"], -1)
    sample = Sample("β = 0.1", {}, content)
    plots = {plot.name: plot for plot in (*embeddings.plots([sample]), *images.plots([sample]))}
    assert plots.keys() == {"covariance", "adjacency", "projection", "code-images", "neighbours"}
    assert "no image has a label" in plots["projection"].caption
    # Code 0 has five of the twelve images, 1 four and 5 three.
    assert plots["projection"].numbers["class"].tolist() == [1, 1, 2, 0]
    for plot in plots.values():
        plot.draw()
    grid = images._neighbour_grid(sample)
    assert grid.words == ["image 0", "image 4", "image 8"]
    assert not grid.framed.any()


def test_one_unlabelled_image_among_others_is_neither_framed_nor_coloured() -> None:
    content = arrays()
    content["labels"][1] = -1
    sample = Sample("β = 0.1", {}, content)
    assert not images._neighbour_grid(sample).framed[0, 1]
    assert images._neighbour_grid(sample).framed[0, 3]
    assert "numbers are classes" in next(p for p in embeddings.plots([sample]) if p.name == "projection").caption


def test_the_collapse_rule_is_documented() -> None:
    text = (ROOT / "docs" / "figures.md").read_text()
    assert "Without labels" in text
