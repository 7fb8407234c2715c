"""Training and evaluation of one trial, from its first step to its files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import cplearn
from cplearn import methods, training
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset
from cplearn.errors import InputError
from cplearn.model import load_folder
from cplearn.training import TrialTraining
from support import needs
from trials import assert_same_state, run, to_end, trial

TRAINED = [name for name in methods.names() if methods.get(name).Settings.trains]


@pytest.fixture(scope="module")
def digits(digits: Dataset) -> Dataset:
    """64 of the training and 48 of the test digits."""

    def cut(split: Any, n: int) -> Any:
        return dataclasses.replace(split, images=split.images[:n], labels=split.labels[:n])

    return dataclasses.replace(digits, train=cut(digits.train, 64), test=cut(digits.test, 48))


def test_two_runs_of_one_seed_give_the_same_numbers(digits: Dataset) -> None:
    (first, first_log), (second, second_log) = run(trial(), digits), run(trial(), digits)
    assert first_log == second_log
    assert_same_state(first.state_dict(), second.state_dict())
    assert run(trial(seed=1), digits)[1] != first_log


def test_training_learns(digits: Dataset) -> None:
    _, log = run(trial(epochs=8), digits)
    assert log[-1]["train/loss"] < log[0]["train/loss"]


def test_channels_are_normalised_for_themselves_if_asked(digits: Dataset) -> None:
    images = torch.cat([digits.train.images, digits.train.images // 2, 255 - digits.train.images // 3], 1)
    coloured = dataclasses.replace(digits, train=dataclasses.replace(digits.train, images=images))
    model = TrialTraining(trial(normalisation="channels"), coloured).model
    normalised = model.prepare(images).double()
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(normalised.std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-6, rtol=0)
    scalar = TrialTraining(trial(), coloured).model.prepare(images)
    assert scalar.mean((0, 2, 3)).abs().max() > 0.1


def test_no_global_random_state_is_used(digits: Dataset) -> None:
    state = torch.get_rng_state()
    trained, _ = run(trial(evaluation={"online_probe": True}), digits)
    trained.evaluate()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", TRAINED)
def test_a_loss_that_is_not_finite_ends_the_trial_in_a_sentence(digits: Dataset, name: str) -> None:
    trained, logs = run(trial(method={"name": name}, optimizer={"lr": 1e38}, epochs=9), digits)
    assert logs == [{}]
    assert trained.epoch == 1
    outcome = trained.evaluate()
    assert "became nan in epoch 1; try a lower learning rate" in (outcome.failure or "")
    assert outcome.metrics == {}


def test_a_trial_thrown_off_by_its_last_update_fails_in_the_evaluation(digits: Dataset) -> None:
    trained, _ = run(trial(epochs=1), digits)
    next(trained.model.backbone.parameters()).data.fill_(float("nan"))
    assert "hold NaN or infinity" in (trained.evaluate().failure or "")


@pytest.mark.parametrize(
    "changes",
    [
        {"method": {"name": "swav"}, "optimizer": {"name": "sgd", "lr": 0.01}},  # its prototypes are frozen at first
        {"optimizer": {"name": "lars", "weight_decay": 1e-4, "warmup_epochs": 1}, "evaluation": {"online_probe": True}},
    ],
    ids=["sgd", "lars"],
)
def test_a_resumed_training_is_the_uninterrupted_one(digits: Dataset, tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = trial(changes, epochs=3)
    through, logs = run(settings, digits)
    first, second = TrialTraining(settings, digits), TrialTraining(settings, digits)
    first.train_epoch()
    torch.save(first.state_dict(), tmp_path / "state.pt")
    first.train_epoch()
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.epoch == 1
    assert to_end(second) == logs[1:]
    assert_same_state(second.state_dict(), through.state_dict())


def test_the_time_of_training_goes_on_with_a_state(digits: Dataset) -> None:
    trained = TrialTraining(trial(), digits)
    trained.load_state_dict({**trained.state_dict(), "seconds": 1000.0})
    to_end(trained)
    assert trained.evaluate().metrics["time/train_s"] > 1000


def test_outcome_and_files(digits: Dataset, tmp_path: Path) -> None:
    epochs: list[int] = []
    outcome = training.train(trial(), digits, log=lambda metrics, epoch: epochs.append(epoch), save_to=tmp_path)
    assert epochs == [1, 2]
    assert {"probe/accuracy", "knn/accuracy", "codes/ami", "codes/nmi_chance", "kmeans/nmi"} <= outcome.metrics.keys()
    assert {"collapse/codes_used", "collapse/effective_rank"} <= outcome.metrics.keys()
    assert 0 < outcome.metrics["probe/accuracy"] <= 1
    written = json.loads((tmp_path / "diagnostics.json").read_text())
    assert len(written["singular_values"]) == 16
    assert sum(written["code_counts"]) == 48
    assert sum(count > 0 for count in written["code_counts"]) == outcome.metrics["collapse/codes_used"]
    assert cplearn.load(tmp_path).trial == cplearn.load(tmp_path / "model").trial == trial()


def test_the_teacher_follows_the_backbone_and_is_what_is_evaluated(digits: Dataset) -> None:
    trained = TrialTraining(trial(method={"name": "dino", "momentum": 0.6}), digits)
    model = trained.model
    assert model.teacher is not None
    assert_same_state(dict(model.teacher.state_dict()), dict(model.backbone.state_dict()))
    before = [p.clone() for p in model.teacher.parameters()]
    model.train()
    trained.training_step(*next(trained.views.epoch(0)), 0)
    for old, new, weight in zip(before, model.teacher.parameters(), model.backbone.parameters(), strict=True):
        torch.testing.assert_close(new, 0.6 * old + 0.4 * weight, rtol=1e-5, atol=1e-7)
    evaluated = model.features(digits.test.images)
    model.backbone.load_state_dict(model.teacher.state_dict())
    model.teacher = None
    assert torch.equal(model.features(digits.test.images), evaluated)


def test_of_byol_the_student_is_evaluated(digits: Dataset) -> None:
    trained, _ = run(trial(method={"name": "byol", "momentum": 0.6}, epochs=1), digits)
    model = trained.model
    assert model.teacher is not None
    evaluated = model.features(digits.test.images)
    model.teacher = None
    assert torch.equal(model.features(digits.test.images), evaluated)


def test_a_saved_model_is_read_back(digits: Dataset, tmp_path: Path) -> None:
    trained, _ = run(trial(method={"name": "dino"}, epochs=1), digits)
    trained.model.save(tmp_path)
    loaded = cplearn.load(tmp_path)
    features = loaded.features(digits.test.images)
    assert features.shape == (48, 16)
    torch.testing.assert_close(features, trained.model.features(digits.test.images), rtol=1e-4, atol=1e-5)
    assert loaded.trial == trained.trial
    assert_same_state(dict(loaded.state_dict()), dict(trained.model.state_dict()))


def test_features_leave_the_callers_images_alone(digits: Dataset) -> None:
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    TrialTraining(trial(), digits).model.features(images)
    assert torch.equal(images, before)


def test_a_model_that_cannot_be_loaded_is_one_sentence(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model here"):
        load_folder(tmp_path)
    TrialTraining(trial(), digits).model.save(tmp_path)
    config = tmp_path / "config.json"
    current = config.read_text()
    config.write_text(json.dumps({**json.loads(current), "layout": 1}))
    with pytest.raises(InputError, match="saved by another version of cplearn"):
        load_folder(tmp_path)
    config.write_text(current)
    for damage in (
        "[]",
        "{}",
        "",
        "\xff",
        "[" * 100_000,
        current[:200],
        json.dumps({**json.loads(current), "images": 3}),
    ):
        config.write_bytes(damage.encode("latin-1"))
        with pytest.raises(InputError):
            load_folder(tmp_path)
    config.write_text(current)
    weights = tmp_path / "weights.pt"
    content = weights.read_bytes()
    for place in range(0, len(content), len(content) // 20):
        weights.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(InputError, match=r"weights\.pt: damaged"):
            load_folder(tmp_path)
    # A model of an earlier version has no digest, and loads.
    config.write_text(json.dumps({name: part for name, part in json.loads(current).items() if name != "sha256"}))
    weights.write_bytes(content[:1000])
    with pytest.raises(InputError, match="may be damaged"):
        load_folder(tmp_path)
    weights.write_bytes(content)
    assert load_folder(tmp_path).trial == trial()
    with pytest.raises(InputError, match="neither a folder with a model nor a known run"):
        cplearn.load(tmp_path / "nowhere")


@pytest.mark.parametrize(("codes", "products"), [(16, 2), (1_000, 4)])
def test_the_operations_of_a_step_are_those_of_its_convolutions_and_products(
    digits: Dataset, codes: int, products: int
) -> None:
    """Two views of 32 images of 8x8 pixels; a resnet8-slim of width 4; a product of two matrices for each gradient."""
    settings = trial(method={"codes": codes, "embedding_dim": 64})
    convolutions = 9 * (64 * (1 * 4 + 2 * 4 * 4) + 16 * (4 * 8 + 8 * 8) + 4 * (8 * 16 + 16 * 16))
    shortcuts = 16 * 4 * 8 + 4 * 8 * 16
    # Of the first convolution no gradient of its input is needed.
    layers = 3 * (convolutions + shortcuts + 16 * 64) - 9 * 64 * 4
    # Both views and the dictionary: logits and gradient, or with a streamed one logits twice and a gradient of two.
    dictionary = products * 2 * 2 * settings.batch_size * codes * 64
    assert training.operations(settings, digits) == 2 * 2 * settings.batch_size * layers + dictionary
    assert training.operations(trial(settings.canonical(), epochs=0), digits) == training.operations(settings, digits)


@pytest.mark.parametrize("backbone", ["pixels", "resnet8-slim"])
def test_baselines_are_evaluated_without_training(digits: Dataset, backbone: str) -> None:
    settings = TrialSettings.read({"method": "untrained", "backbone": {"name": backbone}})
    outcome = training.train(settings, digits)
    assert outcome.metrics["probe/accuracy"] > 0.3
    assert not any(name.startswith(("codes/", "collapse/")) for name in outcome.metrics)
    assert training.operations(settings, digits) == 0


def test_trials_that_do_not_fit_are_refused(digits: Dataset) -> None:
    with pytest.raises(InputError, match="batch_size 512 is larger than the 64 training images"):
        TrialTraining(trial(batch_size=512), digits)
    with pytest.raises(InputError, match=r"images of 3 pixels are too small for backbone .* needs 4"):
        TrialTraining(trial(method={"name": "dino"}, augment={"local_views": 1, "local_size": 3}), digits)


@needs("g++")
def test_a_compiled_backbone_and_its_teacher_train_to_the_same_losses(digits: Dataset) -> None:
    settings = trial(method={"name": "dino"}, epochs=1)
    _, (expected,) = run(settings, digits)
    compiled = TrialTraining(settings, digits, compile=True)
    assert compiled.train_epoch()["train/loss"] == pytest.approx(expected["train/loss"], rel=1e-4)
    assert compiled.evaluate().failure is None
    assert not any("_orig_mod" in name for name in compiled.state_dict()["model"])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_trains(digits: Dataset, precision: str) -> None:
    trained, log = run(trial(precision=precision), digits)
    _, expected = run(trial(), digits)
    assert log[-1]["train/loss"] == pytest.approx(expected[-1]["train/loss"], rel=0.1)
    assert all(p.dtype == torch.float32 for p in trained.model.parameters())


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "lars"])
def test_in_float16_an_update_that_overflows_changes_no_weight(digits: Dataset, optimizer: str) -> None:
    settings = trial(precision="float16", optimizer={"name": optimizer, "lr": 1e-3}, epochs=20)
    trained = TrialTraining(settings, digits)
    trained.scaler.load_state_dict({**trained.scaler.state_dict(), "scale": 2.0**60})
    before = trained.state_dict()["model"]
    trained.train_epoch()
    after = trained.state_dict()
    assert all(torch.equal(after["model"][name], before[name]) for name, _ in trained.model.named_parameters())
    assert after["scaler"]["scale"] == 2.0 ** (60 - trained.steps_per_epoch)
    to_end(trained)
    assert trained.failure is None
    assert all(p.isfinite().all() for p in trained.model.parameters())


def test_a_frozen_layer_gets_no_step_of_the_optimiser(digits: Dataset) -> None:
    trained = TrialTraining(trial(method={"name": "swav", "freeze_epochs": 1}, optimizer={"weight_decay": 0.1}), digits)
    frozen = next(p for name, p in trained.model.named_parameters() if "prototypes" in name)
    before = frozen.detach().clone()
    trained.train_epoch()
    assert torch.equal(frozen, before)
    trained.train_epoch()
    assert trained.optimizer.state[frozen]["step"] == trained.steps_per_epoch
    assert not torch.equal(frozen, before)
