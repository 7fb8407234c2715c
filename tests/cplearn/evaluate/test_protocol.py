"""The evaluation as a whole: packs, other data sets, the validation split, and what is kept for figures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from cplearn import training
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset, Split, load
from cplearn.errors import InputError
from cplearn.evaluate import linear_probe, probe, protocol
from trials import run, trial

EVERYTHING = {
    "probe": ["lbfgs", "sgd", "adam"],
    "view_images": 64,
    "lidar": True,
    "gmm_components": [2, 10],
    "transfer": ["digits"],
}


def evaluated(**changes: Any) -> TrialSettings:
    return trial(**{**changes, "evaluation": {**EVERYTHING, **changes.pop("evaluation", {})}})


def colour(dataset: Dataset, size: int) -> Dataset:
    """The same images in three channels that differ, and of another size."""

    def paint(split: Any) -> Any:
        images = transforms.resize(split.images, [size, size], antialias=True)
        return dataclasses.replace(split, images=torch.cat([images, images // 2, 255 - images], dim=1))

    return dataclasses.replace(
        dataset, name="folder:/somewhere/painted", train=paint(dataset.train), test=paint(dataset.test)
    )


def comparable(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


@pytest.mark.parametrize("common", [True, False])
def test_every_metric_of_a_member_is_that_of_the_trial_alone(digits: Dataset, common: bool) -> None:
    shared = {"precision": "float64", "common_random_numbers": common}
    trials = [evaluated(**shared), evaluated(**shared, method={"beta": 5.0}), evaluated(**shared, seed=7)]
    outcomes = run(trials, digits)[0].evaluate()
    for one, outcome in zip(trials, outcomes, strict=True):
        (alone,) = run([one], digits)[0].evaluate()
        assert comparable(outcome.metrics) == pytest.approx(comparable(alone.metrics), rel=1e-8)
        for name, array in alone.arrays.items():
            np.testing.assert_allclose(outcome.arrays[name], array, rtol=1e-2, atol=1e-3, err_msg=name)
    names = {name.partition("/")[0] for name in outcomes[0].metrics}
    assert names == {
        *("probe", "probe_sgd", "probe_adam", "knn", "validation", "kmeans", "codes", "collapse", "gmm", "select"),
        *("transfer", "time"),
    }


def test_what_is_asked_for_in_addition_changes_no_other_number(digits: Dataset) -> None:
    pack, _ = run([trial()], digits)
    (plain,) = pack.evaluate()
    pack.model.trials = [evaluated(evaluation={"view_images": 500})]
    (more,) = protocol.run(pack.model, digits)
    own = comparable(plain.metrics)
    assert {name: more.metrics[name] for name in own} == own
    assert {"probe_sgd/accuracy", "select/lidar", "gmm/entropy_10"} <= more.metrics.keys() - own.keys()
    assert not any(name.startswith("probe/") for name in settings_without(pack, digits, probe=["sgd"]))
    assert not any("validation" in name for name in settings_without(pack, digits, validation=0.0))


@pytest.mark.parametrize("common", [True, False])
def test_augmented_probes_of_a_member_are_those_of_the_trial_alone(
    digits: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    common: bool,
) -> None:
    brief = {name: dataclasses.replace(one, epochs=3) for name, one in probe.PROTOCOLS.items()}
    monkeypatch.setattr(probe, "PROTOCOLS", brief)
    asked: dict[str, Any] = {"probe": ["sgd"], "probe_augment": True}
    trials = [
        evaluated(evaluation=asked, seed=seed, common_random_numbers=common, precision="float64") for seed in (0, 1)
    ]
    together = [one.metrics for one in training.Pack(trials, digits).evaluate()]
    for one, metrics in zip(trials, together, strict=True):
        alone = training.Pack([one], digits).evaluate()[0].metrics
        assert {k: v for k, v in metrics.items() if "probe" in k} == {k: v for k, v in alone.items() if "probe" in k}
    plain = evaluated(evaluation={"probe": ["sgd"]}, common_random_numbers=common, precision="float64")
    without = training.Pack([plain], digits).evaluate()[0].metrics
    assert without["probe_sgd/train_accuracy"] != together[0]["probe_sgd/train_accuracy"]


def test_images_of_a_probe_are_augmented_anew_in_each_epoch_and_alike_from_files(tmp_path: Path) -> None:
    """The crops of one seed and epoch are the same in every call; a model of raw pixels shows them."""
    folder, draw = tmp_path / "images", np.random.default_rng(0)
    for name in (f"{split}/{kind}/{number}.png" for split in ("train", "test") for kind in "ab" for number in range(6)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (12, 12, 3), np.uint8)).save(folder / name)
    for decode in ("cached", "on-demand"):
        settings = {"dataset": f"folder:{folder}", "decode": decode, "image_size": 8}
        trial = TrialSettings.read(settings | {"method": "untrained", "backbone": {"name": "pixels"}})
        dataset = load(**trial.data_request(), root=tmp_path)
        model = training.Pack([trial], dataset).model
        first, again, other = (protocol._augmented(model, dataset.train, epoch) for epoch in (0, 0, 1))
        assert first.shape == protocol.features(model, dataset.train.images).shape
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_every_metric_and_setting_is_documented(digits: Dataset, root: Path) -> None:
    text = (root / "docs" / "evaluation.md").read_text()
    pack, (log,) = run([evaluated(evaluation={"online_probe": True})], digits)
    (outcome,) = pack.evaluate()
    metrics = [*outcome.metrics, *(name for name in log[0] if "online" in name)]
    for name in metrics:
        group, _, leaf = name.rpartition("/")
        if group in ("codes", "kmeans"):
            assert f"`{leaf}`" in text, name
        elif group.startswith(("probe_", "transfer")):
            assert f"`{group.partition('/')[0]}/" in text, name
            assert f"/{leaf}`" in text, name
        elif group == "gmm":
            assert f"`gmm/{leaf.replace('10', '<k>').replace('_2', '_<k>')}`" in text, name
        elif group != "time":
            assert f"`{name}`" in text, name
    for setting in ("view_images", "lidar", "gmm_components", "transfer", "online_probe", "validation", "kept_images"):
        assert f"evaluation.{setting}" in text


def settings_without(pack: training.Pack, dataset: Dataset, **evaluation: Any) -> dict[str, float]:
    pack.model.trials = [trial(evaluation=evaluation)]
    return protocol.run(pack.model, dataset)[0].metrics


def test_selection_and_validation_never_see_the_test_split(digits: Dataset) -> None:
    pack, _ = run([evaluated(evaluation={"transfer": []})], digits)
    blank = dataclasses.replace(
        digits.test, images=torch.flip(digits.test.images, (0, 2)), labels=digits.test.labels % 2
    )
    ours, other = (protocol.run(pack.model, d)[0].metrics for d in (digits, dataclasses.replace(digits, test=blank)))
    chosen_by = [name for name in ours if name.startswith(("select/", "validation/"))]
    assert len(chosen_by) == 7
    assert {name: ours[name] for name in chosen_by} == {name: other[name] for name in chosen_by}
    assert ours["probe/accuracy"] != other["probe/accuracy"]


def test_the_label_free_criteria_never_see_a_label(digits: Dataset) -> None:
    pack, _ = run([evaluated(evaluation={"transfer": []})], digits)
    shuffled = dataclasses.replace(digits.train, labels=digits.train.labels.flip(0))
    ours, other = (
        protocol.run(pack.model, d)[0].metrics for d in (digits, dataclasses.replace(digits, train=shuffled))
    )
    assert all(other[name] == value for name, value in ours.items() if name.startswith("select/"))
    assert ours["validation/accuracy"] > other["validation/accuracy"]


def test_validation_holds_out_a_part_of_the_training_images(digits: Dataset) -> None:
    evaluation = {"validation": 0.25, "probe_c": 1e3}
    untrained = {"method": "untrained", "backbone": {"name": "pixels"}, "evaluation": evaluation}
    pack = training.Pack([TrialSettings.read(untrained), TrialSettings.read({**untrained, "seed": 1})], digits)
    # Labels of no meaning: what was fitted is known by heart, what was held out is guessed.
    noise = torch.randint(0, 10, (160,), generator=torch.Generator().manual_seed(0))
    noisy = dataclasses.replace(digits, train=dataclasses.replace(digits.train, labels=noise))
    first, second = (outcome.metrics for outcome in protocol.run(pack.model, noisy))
    assert first["probe/train_accuracy"] > 0.6
    assert first["validation/accuracy"] < 0.3
    assert 40 * first["validation/accuracy"] == pytest.approx(round(40 * first["validation/accuracy"]))
    # Another seed holds out other images.
    assert first["validation/knn_accuracy"] != second["validation/knn_accuracy"]
    assert protocol.run(pack.model, digits)[0].metrics["validation/accuracy"] > 0.7


def test_two_images_are_too_few_for_a_validation_split(digits: Dataset) -> None:
    two = torch.tensor([0, int((digits.train.labels != digits.train.labels[0]).nonzero()[0])])
    few = dataclasses.replace(digits.train, images=digits.train.images[two], labels=digits.train.labels[two])
    pack = training.Pack([TrialSettings.read({"method": "untrained", "backbone": {"name": "pixels"}})], digits)
    (outcome,) = protocol.run(pack.model, dataclasses.replace(digits, train=few))
    assert "probe/accuracy" in outcome.metrics
    assert not any(name.startswith("validation/") for name in outcome.metrics)


def test_transfer_is_the_same_protocol_on_other_images(digits: Dataset) -> None:
    full = protocol.load_transfer(evaluated(), 8)
    pack, _ = run([evaluated(), evaluated(seed=1)], digits)
    outcomes = pack.evaluate()
    assert [data.name for data in full] == ["digits"]
    for k, outcome in enumerate(outcomes):
        train, test = (pack.model.features(split.images)[k] for split in (full[0].train, full[0].test))
        expected = dict(linear_probe(train, full[0].train.labels, test, full[0].test.labels))
        assert outcome.metrics["transfer/digits/accuracy"] == expected["probe/accuracy"]
        assert outcome.metrics["transfer/digits/top5"] == expected["probe/top5"]
        assert 0 < outcome.metrics["transfer/digits/knn_accuracy"] <= 1
    assert outcomes[0].metrics["transfer/digits/accuracy"] != outcomes[1].metrics["transfer/digits/accuracy"]


def test_images_of_another_size_or_number_of_channels_are_brought_to_the_models(digits: Dataset) -> None:
    grey, _ = run([trial()], digits)
    painted = colour(digits, 16)
    small = transforms.resize(transforms.rgb_to_grayscale(painted.test.images), [8, 8], antialias=True)
    expected = grey.model.features(small)
    torch.testing.assert_close(protocol.features(grey.model, painted.test.images), expected)
    seen, _ = run([trial(augment={"recipe": "none"})], painted)
    repeated = transforms.resize(digits.test.images, [16, 16], antialias=True).repeat(1, 3, 1, 1)
    torch.testing.assert_close(protocol.features(seen.model, digits.test.images), seen.model.features(repeated))
    assert torch.equal(protocol.features(grey.model, digits.test.images), grey.model.features(digits.test.images))
    (outcome,) = protocol.run(seen.model, digits, [painted])
    assert outcome.metrics["transfer/folder-painted/accuracy"] > 0.3


def test_raw_pixels_transfer_too(digits: Dataset) -> None:
    untrained = TrialSettings.read({"method": "untrained", "backbone": {"name": "pixels"}})
    pack = training.Pack([untrained], digits)
    (outcome,) = protocol.run(pack.model, colour(digits, 16), [digits])
    assert outcome.metrics["transfer/digits/accuracy"] > 0.7
    assert {name for name in outcome.metrics if name.startswith("select/")} == {"select/alpha_req"}
    images = {"queries", "neighbours", "shown", "thumbnails"}
    assert outcome.arrays.keys() == {"labels", "kept", "features", "features_scale"} | images


def test_arrays_are_what_figures_need(digits: Dataset, tmp_path: Path) -> None:
    pack, _ = run([trial(evaluation={"kept_images": 40})], digits)
    (outcome,) = pack.evaluate()
    pack.save_member(0, tmp_path, outcome)
    with np.load(tmp_path / "evaluation.npz", allow_pickle=False) as file:
        arrays = dict(file)
    embeddings = pack.model.embeddings(pack.model.features(digits.test.images))
    codes = pack.model.method.codes(embeddings)[0].numpy()
    assert arrays["labels"].tolist() == digits.test.labels.tolist()
    assert arrays["codes"].tolist() == codes.tolist()
    assert arrays["kept"].tolist() == [i * 96 // 40 for i in range(40)]
    assert arrays["embeddings"].dtype == arrays["features"].dtype == np.float16
    restored = arrays["embeddings"] * arrays["embeddings_scale"]
    np.testing.assert_allclose(restored, embeddings[0].numpy()[arrays["kept"]], rtol=2e-3, atol=1e-4)
    # All of the 16 features' components are there, so distances are those of the features.
    features = pack.model.features(digits.test.images)[0].numpy()[arrays["kept"]]
    restored = arrays["features"].astype(np.float64) * arrays["features_scale"]
    for i, j in [(0, 1), (5, 30)]:
        assert np.linalg.norm(restored[i] - restored[j]) == pytest.approx(
            np.linalg.norm(features[i] - features[j]), rel=1e-2
        )
    counts = np.bincount(codes, minlength=32)
    assert counts[arrays["top_codes"]].tolist() == sorted(counts[counts > 0], reverse=True)[:8]
    for code, images in zip(arrays["top_codes"], arrays["code_images"], strict=True):
        own = embeddings[0].numpy()[codes == code]
        distances = np.sort(np.linalg.norm(own - own.mean(0), axis=1))
        shown = images[images >= 0]
        assert len(shown) == min(8, counts[code])
        assert (codes[shown] == code).all()
        found = np.linalg.norm(embeddings[0].numpy()[shown] - own.mean(0), axis=1)
        np.testing.assert_allclose(found, distances[: len(shown)], rtol=1e-5, atol=1e-6)
    assert json.loads((tmp_path / "diagnostics.json").read_text()).keys() == {"singular_values", "code_counts"}


def test_what_is_kept_is_bounded(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    pack, _ = run([trial()], digits)
    (all_kept,) = pack.evaluate()
    assert len(all_kept.arrays["kept"]) == 96
    monkeypatch.setattr(protocol, "KEPT_BYTES", 16 * 2 * 10)
    assert len(pack.evaluate()[0].arrays["embeddings"]) == 10
    pack.model.trials = [trial(evaluation={"kept_images": 0})]
    assert protocol.run(pack.model, digits)[0].arrays.keys() == {"labels", "codes", "top_codes", "code_images"}


def test_huge_or_constant_features_fit_into_half_precision() -> None:
    labels = torch.zeros(20, dtype=torch.int64)
    split = Split(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), labels)
    for features in (1e30 * torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), torch.ones(20, 4)):
        arrays = protocol.figure_arrays(split, features, None, None, 20, 0)
        assert np.isfinite(arrays["features"]).all()


def test_neighbours_are_the_nearest_by_cosine_and_their_images_are_kept() -> None:
    angles = torch.tensor([0.0, 0.1, 0.3, 2.0, 2.1, 2.3, 2.6, 3.0, 3.1])
    features = torch.stack([angles.cos(), angles.sin()], 1) * torch.arange(1, 10)[:, None]
    images = torch.arange(9, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 64, 64) * 20
    split = Split(images, torch.tensor([5, 5, 5, 2, 2, 2, 2, 2, 2]))
    arrays = protocol.figure_arrays(split, features, None, None, 9, 0)
    assert arrays["queries"].tolist() == [3, 0], "the first image of each class"
    assert arrays["neighbours"].tolist() == [[4, 5, 6, 7, 8, 2, 1], [1, 2, 3, 4, 5, 6, 7]]
    assert arrays["shown"].tolist() == list(range(9))
    assert arrays["thumbnails"].shape == (9, 3, 32, 32)
    assert arrays["thumbnails"][:, 0, 5, 7].tolist() == [20 * image for image in range(9)]
    few = protocol.figure_arrays(Split(images[:3], split.labels[:3]), features[:3], None, None, 3, 0)
    assert few["neighbours"].tolist() == [[1, 2, -1, -1, -1, -1, -1]]
    assert few["shown"].tolist() == [0, 1, 2]


def test_a_broken_member_fails_alone_whatever_is_measured(digits: Dataset) -> None:
    pack, _ = run([evaluated(), evaluated(seed=3)], digits)
    (alone,) = run([evaluated(seed=3)], digits)[0].evaluate()
    next(pack.model.backbone.parameters()).data[:4].fill_(float("nan"))
    broken, healthy = pack.evaluate()
    assert "hold NaN or infinity" in (broken.failure or "")
    assert broken.metrics == {}
    assert healthy.metrics.keys() == alone.metrics.keys()


def test_what_cannot_be_evaluated_is_refused_before_the_training(digits: Dataset) -> None:
    with pytest.raises(InputError, match=r"gmm_components 97 are more than the 96 test images of digits"):
        training.Pack([trial(evaluation={"gmm_components": [97]})], digits)
    with pytest.raises(InputError, match="nowhere"):
        training.Pack([trial(evaluation={"transfer": ["folder:/nowhere"]})], digits)
    assert training.footprint(trial(evaluation={"transfer": ["folder:/nowhere"]}), digits).memory > 0
