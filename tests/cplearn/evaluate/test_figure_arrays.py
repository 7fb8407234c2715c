"""What is kept of single test images for figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cplearn import training
from cplearn.data import Dataset, Split
from cplearn.evaluate.figure_arrays import figure_arrays
from trials import trial


def test_arrays_are_what_figures_need(digits: Dataset, tmp_path: Path) -> None:
    trained = training.TrialTraining(trial(evaluation={"kept_images": 40}), digits)
    trained.train_epoch()
    model, outcome = trained.model, trained.evaluate()
    trained.save(tmp_path, outcome)
    with np.load(tmp_path / "evaluation.npz", allow_pickle=False) as file:
        arrays = dict(file)
    features = model.features(digits.test.images)
    embedded = model.embeddings(features)
    codes, embeddings = model.codes(embedded).numpy(), embedded.numpy()
    assert arrays["labels"].tolist() == digits.test.labels.tolist()
    assert arrays["codes"].tolist() == codes.tolist()
    assert arrays["kept"].tolist() == [i * 96 // 40 for i in range(40)]
    assert arrays["embeddings"].dtype == arrays["features"].dtype == np.float16
    restored = arrays["embeddings"] * arrays["embeddings_scale"]
    np.testing.assert_allclose(restored, embeddings[arrays["kept"]], rtol=2e-3, atol=1e-4)
    # All of the 16 features' components are there, so distances are those of the features.
    kept = features.numpy()[arrays["kept"]]
    restored = arrays["features"].astype(np.float64) * arrays["features_scale"]
    for i, j in [(0, 1), (5, 30)]:
        distance = np.linalg.norm(kept[i] - kept[j])
        assert np.linalg.norm(restored[i] - restored[j]) == pytest.approx(distance, rel=1e-2)
    counts = np.bincount(codes, minlength=32)
    assert counts[arrays["top_codes"]].tolist() == sorted(counts[counts > 0], reverse=True)[:8]
    for code, images in zip(arrays["top_codes"], arrays["code_images"], strict=True):
        mean = embeddings[codes == code].mean(0)
        nearest = np.sort(np.linalg.norm(embeddings[codes == code] - mean, axis=1))
        shown = images[images >= 0]
        assert len(shown) == min(8, counts[code])
        assert (codes[shown] == code).all()
        distances = np.linalg.norm(embeddings[shown] - mean, axis=1)
        np.testing.assert_allclose(distances, nearest[: len(shown)], rtol=1e-5, atol=1e-6)
    assert json.loads((tmp_path / "diagnostics.json").read_text()).keys() == {
        *("singular_values", "paper_singular_values", "code_counts")
    }


def test_as_much_is_kept_as_is_asked_for(digits: Dataset) -> None:
    draw = torch.Generator().manual_seed(0)
    features, embeddings, codes = torch.randn(96, 4, generator=draw), torch.randn(96, 16), torch.zeros(96).long()
    assert len(figure_arrays(digits.test, features, (embeddings, codes), 2000, 0)["kept"]) == 96
    assert len(figure_arrays(digits.test, features, (embeddings, codes), 10, 0)["embeddings"]) == 10
    wide = torch.randn(96, 2**17)  # 24 MiB in half precision
    assert len(figure_arrays(digits.test, features, (wide, codes), 96, 0)["embeddings"]) == 96
    none_kept = figure_arrays(digits.test, features, (embeddings, codes), 0, 0)
    assert none_kept.keys() == {"labels", "codes", "top_codes", "code_images"}


def test_huge_or_constant_features_fit_into_half_precision() -> None:
    labels = torch.zeros(20, dtype=torch.int64)
    split = Split(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), labels)
    for features in (1e30 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.ones(20, 4)):
        arrays = figure_arrays(split, features, None, 20, 0)
        assert np.isfinite(arrays["features"]).all()


def test_neighbours_are_the_nearest_by_cosine_and_their_images_are_kept() -> None:
    angles = torch.tensor([0.0, 0.1, 0.3, 2.0, 2.1, 2.3, 2.6, 3.0, 3.1])
    features = torch.stack([angles.cos(), angles.sin()], 1) * torch.arange(1, 10)[:, None]
    images = torch.arange(9, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 64, 64) * 20
    split = Split(images, torch.tensor([5, 5, 5, 2, 2, 2, 2, 2, 2]))
    arrays = figure_arrays(split, features, None, 9, 0)
    assert arrays["queries"].tolist() == [3, 0], "the first image of each class"
    assert arrays["neighbours"].tolist() == [[4, 5, 6, 7, 8, 2, 1], [1, 2, 3, 4, 5, 6, 7]]
    assert arrays["shown"].tolist() == list(range(9))
    assert arrays["thumbnails"].shape == (9, 3, 32, 32)
    assert arrays["thumbnails"][:, 0, 5, 7].tolist() == [20 * image for image in range(9)]
    few = figure_arrays(Split(images[:3], split.labels[:3]), features[:3], None, 3, 0)
    assert few["neighbours"].tolist() == [[1, 2, -1, -1, -1, -1, -1]]
    assert few["shown"].tolist() == [0, 1, 2]
