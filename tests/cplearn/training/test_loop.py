"""Training and evaluation of packs: the equality of a member with the same trial alone is the gate."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import cplearn
import cplearn.data
from cplearn import methods, stacked, training
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset, Split
from cplearn.errors import InputError
from cplearn.model import load_folder
from support import needs
from trials import run, trial

# Every number in which members may differ, in some member; seeds 0 and 7, so some members share their batches.
VARIED: dict[str, list[dict[str, Any]]] = {
    "any": [
        {},
        {"optimizer": {"lr": 3e-3, "weight_decay": 1e-2, "warmup_epochs": 1}},
        {"seed": 7, "augment": {"strength": 0.5}},
        {"seed": 7},
    ],
    "cplearn": [
        {"method": {"beta": 0.1}},
        {"method": {"beta": 5.0, "temperature": 1.0}},
        {"seed": 7, "method": {"epsilon": 1e-6}},
        {"seed": 7, "method": {"beta": 0.1}},
    ],
    "barlow_twins": [{"method": m} for m in ({}, {"off_diagonal": 0.1}, {"scale": 1.0}, {})],
    "vicreg": [{"method": m} for m in ({}, {"invariance": 5.0, "eps": 1e-2}, {"variance": 1.0}, {"covariance": 9.0})],
    "simclr": [{"method": m} for m in ({}, {"temperature": 0.1}, {}, {"temperature": 2.0})],
    "swav": [{"method": m} for m in ({}, {"temperature": 0.2}, {"epsilon": 0.5}, {"epsilon": 0.02})],
    "self_classifier": [
        {"method": m} for m in ({}, {"row_temperature": 0.5}, {"column_temperature": 0.2}, {"row_temperature": 0.2})
    ],
    "gedi": [{"method": m} for m in ({}, {"beta": 2.0}, {"temperature": 1.0}, {"beta": 30.0})],
    "dino": [
        {"method": m}
        for m in (
            {},
            {"student_temperature": 0.2, "centre_momentum": 0.5},
            {"teacher_temperature": 0.1, "warmup_teacher_temperature": 0.02},
            {"momentum": 0.5},
        )
    ],
}
TRAINED = [name for name in methods.names() if methods.get(name).Settings.trains]


@pytest.mark.parametrize(
    ("name", "settings"),
    [(name, {}) for name in TRAINED]
    + [("cplearn", {"common_random_numbers": False}), ("cplearn", {"method": {"form": "tanh"}})]
    + [("cplearn", {"method": {"prior": "forward", "symmetric": False}}), ("gedi", {"method": {"symmetric": False}})]
    + [(name, {"augment": {"local_views": 2}}) for name in ("dino", "swav")],
)
def test_a_member_of_a_pack_is_the_trial_alone(digits: Dataset, name: str, settings: dict[str, Any]) -> None:
    """In float64, after 50 steps: losses, embeddings and probe results to 1e-8 relative. Methods added later too."""
    shared = {"precision": "float64", "epochs": 10, **settings, "method": {"name": name, **settings.get("method", {})}}
    own = VARIED.get(name, [{}] * 4)
    trials = [trial(shared, general, special) for general, special in zip(VARIED["any"], own, strict=True)]
    together, logs = run(trials, digits)
    assert together.steps_per_epoch * together.epochs == 50
    features = together.model.features(digits.test.images)
    embeddings = together.model.embeddings(features)
    outcomes = together.evaluate()
    for k, one in enumerate(trials):
        alone, (own_log,) = run([one], digits)
        for together_epoch, own_epoch in zip(logs[k], own_log, strict=True):
            assert together_epoch == pytest.approx(own_epoch, rel=1e-8)
        own_features = alone.model.features(digits.test.images)
        torch.testing.assert_close(features[k], own_features[0], rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(embeddings[k], alone.model.embeddings(own_features)[0], rtol=1e-8, atol=1e-9)
        (own,) = alone.evaluate()
        for name, value in own.metrics.items():
            if not name.startswith("time/"):
                assert outcomes[k].metrics[name] == pytest.approx(value, rel=1e-8), name


def test_in_single_precision_a_member_differs_from_the_trial_alone_by_less_than_seeds_differ(digits: Dataset) -> None:
    trials = [trial(epochs=10, seed=seed) for seed in (0, 1)]
    together = run(trials, digits)[0].evaluate()
    alone = [run([one], digits)[0].evaluate()[0] for one in trials]
    names = ["probe/accuracy", "knn/accuracy", "codes/nmi", "codes/ami", "kmeans/nmi", "collapse/effective_rank"]

    def difference(a: training.Outcome, b: training.Outcome) -> float:
        return sum(abs(a.metrics[name] - b.metrics[name]) / abs(a.metrics[name]) for name in names)

    seeds = difference(*alone)
    assert all(difference(*pair) < seeds for pair in zip(together, alone, strict=True))


def test_two_runs_of_one_seed_give_the_same_numbers(digits: Dataset) -> None:
    (first, first_log), (second, second_log) = run([trial()], digits), run([trial()], digits)
    assert first_log == second_log
    own, again = first.member_state(0)["model"], second.member_state(0)["model"]
    assert all(torch.equal(own[name], again[name]) for name in own)
    _, other_log = run([trial(seed=1)], digits)
    assert other_log != first_log


def test_training_learns(digits: Dataset) -> None:
    _, (log,) = run([trial(epochs=6)], digits)
    assert log[-1]["train/loss"] < log[0]["train/loss"]


def test_no_global_random_state_is_used(digits: Dataset) -> None:
    state = torch.get_rng_state()
    pack, _ = run([trial()], digits)
    pack.evaluate()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", TRAINED)
def test_a_diverging_member_stops_alone(digits: Dataset, name: str) -> None:
    def with_neighbour(lr: float) -> tuple[training.Pack, list[Any]]:
        method = {"method": {"name": name}}
        return run([trial(method), trial(method, optimizer={"lr": lr}), trial(method, seed=3)], digits)

    (healthy, healthy_logs), (pack, logs) = with_neighbour(1e-3), with_neighbour(1e38)
    assert logs[1] == []
    assert [logs[0], logs[2]] == [healthy_logs[0], healthy_logs[2]]
    for k in (0, 2):
        own, other = pack.member_state(k)["model"], healthy.member_state(k)["model"]
        assert all(torch.equal(own[name], other[name]) for name in own)
    outcomes = pack.evaluate()
    assert "became nan in epoch 1" in outcomes[1].failure
    assert outcomes[1].metrics == {}
    assert outcomes[0].failure is None


def test_a_member_thrown_off_by_its_last_update_fails_alone_in_the_evaluation(digits: Dataset) -> None:
    pack, _ = run([trial(), trial(seed=3)], digits)
    stacked.members_of(next(pack.model.backbone.parameters()).data, 2)[0].fill_(float("nan"))
    broken, healthy = pack.evaluate()
    assert "hold NaN or infinity" in (broken.failure or "")
    assert healthy.failure is None
    assert healthy.metrics["probe/accuracy"] > 0.5


def test_a_pack_whose_members_all_diverge_ends(digits: Dataset) -> None:
    pack, _ = run([trial(optimizer={"lr": 1e38}, epochs=9)], digits)
    assert pack.finished
    assert pack.epoch == 1


@pytest.mark.parametrize("name", ["cplearn", "dino", "swav"])
def test_a_member_goes_on_from_its_state_alone_or_in_another_pack(digits: Dataset, name: str) -> None:
    zero, one = (trial(method={"name": name}, seed=seed) for seed in (0, 1))
    through, through_logs = run([zero, one], digits)
    first = training.Pack([zero, one], digits)
    first.train_epoch()
    alone = training.Pack([one], digits)
    alone.load_member_states([first.member_state(1)])
    swapped = training.Pack([one, zero], digits)
    swapped.load_member_states([first.member_state(1), first.member_state(0)])
    assert dict(swapped.train_epoch())[1]["train/loss"] == through_logs[0][1]["train/loss"]
    assert dict(alone.train_epoch())[0]["train/loss"] == pytest.approx(through_logs[1][1]["train/loss"], rel=1e-5)
    state, expected = swapped.member_state(0)["model"], through.member_state(1)["model"]
    assert all(torch.equal(state[name], expected[name]) for name in state)
    with pytest.raises(ValueError, match="states of epochs"):
        swapped.load_member_states([first.member_state(0)])


def test_outcome_and_files(digits: Dataset, tmp_path: Path) -> None:
    epochs: list[int] = []
    (outcome,) = training.train(
        [trial()], digits, log=lambda member, epoch, metrics: epochs.append(epoch), save_to=[tmp_path]
    )
    assert epochs == [1, 2]
    assert {"probe/accuracy", "knn/accuracy", "codes/ami", "codes/nmi_chance", "kmeans/nmi"} <= outcome.metrics.keys()
    assert {"collapse/codes_used", "collapse/effective_rank"} <= outcome.metrics.keys()
    assert 0 < outcome.metrics["probe/accuracy"] <= 1
    written = json.loads((tmp_path / "diagnostics.json").read_text())
    assert len(written["singular_values"]) == 16
    assert sum(written["code_counts"]) == 96
    assert sum(count > 0 for count in written["code_counts"]) == outcome.metrics["collapse/codes_used"]
    assert cplearn.load(tmp_path).trials == cplearn.load(tmp_path / "model").trials == [trial()]


def test_the_teacher_follows_the_backbone_and_is_what_is_evaluated(digits: Dataset, tmp_path: Path) -> None:
    pack = training.Pack([trial(method={"name": "dino", "momentum": m}) for m in (0.9, 0.6)], digits)
    model = pack.model
    assert all(torch.equal(*pair) for pair in zip(model.teacher.parameters(), model.backbone.parameters(), strict=True))
    learned = {id(p) for p in pack.optimizer.parameters}
    assert not any(id(p) in learned for p in model.teacher.parameters())
    before = [p.clone() for p in model.teacher.parameters()]
    views, labels = next(pack.views.epoch(0))
    model.train()
    pack._step(views, labels, 0)
    for k, m in enumerate((0.9, 0.6)):
        for old, new, own in zip(before, model.teacher.parameters(), model.backbone.parameters(), strict=True):
            old, new, own = (stacked.members_of(p.detach(), 2)[k] for p in (old, new, own))
            torch.testing.assert_close(new, m * old + (1 - m) * own, rtol=1e-5, atol=1e-7)
    evaluated = model.features(digits.test.images)
    model.backbone.load_state_dict(model.teacher.state_dict())
    model.teacher.requires_grad_(False)
    assert torch.equal(model.features(digits.test.images), evaluated)
    model.save_member(1, tmp_path)
    loaded = cplearn.load(tmp_path).features(digits.test.images)
    torch.testing.assert_close(loaded[0], evaluated[1], rtol=1e-4, atol=1e-5)


def test_local_crops_leave_the_draws_of_the_two_views_alone(digits: Dataset) -> None:
    both = []
    for local in ({}, {"local_views": 3, "local_size": 5}):
        pack = training.Pack([trial(method={"name": "swav"}, augment=local, seed=s) for s in (0, 1)], digits)
        both.append(next(pack.views.epoch(0)))
    (plain, labels), (cropped, same_labels) = both
    assert [tuple(views.shape) for views in cropped] == [(64, 2, 8, 8), (96, 2, 5, 5)]
    assert torch.equal(plain[0], cropped[0])
    assert torch.equal(labels, same_labels)


def test_labels_belong_to_the_images(digits: Dataset) -> None:
    pack = training.Pack([trial(augment={"recipe": "none"}, seed=s) for s in (0, 1, 0)], digits)
    label = {image.numpy().tobytes(): y for image, y in zip(digits.train.images, digits.train.labels, strict=True)}
    for views, labels in pack.views.epoch(1):
        images = (views[0][:32] * 255).round().to(torch.uint8)
        for k in range(3):
            assert [label[image[None].numpy().tobytes()] for image in images[:, k]] == labels[k].tolist()
    assert torch.equal(labels[0], labels[2])


def test_a_saved_model_is_read_back(digits: Dataset, tmp_path: Path) -> None:
    pack, _ = run([trial(), trial(seed=1)], digits)
    pack.model.save_member(1, tmp_path)
    expected = pack.model.features(digits.test.images)
    loaded = cplearn.load(tmp_path)
    torch.testing.assert_close(loaded.features(digits.test.images)[0], expected[1], rtol=1e-4, atol=1e-5)
    assert loaded.trials == [trial(seed=1)]
    assert torch.equal(loaded.method.dictionary[0], pack.model.method.dictionary[1])


def test_features_leave_the_callers_images_alone(digits: Dataset) -> None:
    pack = training.Pack([trial()], digits)
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    pack.model.features(images)
    assert torch.equal(images, before)


def test_a_missing_or_damaged_model_is_one_sentence(digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model here"):
        load_folder(tmp_path)
    training.Pack([trial()], digits).model.save_member(0, tmp_path)
    (tmp_path / "weights.pt").write_bytes((tmp_path / "weights.pt").read_bytes()[:1000])
    with pytest.raises(InputError, match="may be damaged"):
        load_folder(tmp_path)
    with pytest.raises(InputError, match="neither a folder with a model nor a known run"):
        cplearn.load(tmp_path / "nowhere")


def test_the_memory_of_a_member_is_that_of_its_weights_and_of_what_a_step_keeps(digits: Dataset) -> None:
    small, large = (training.footprint(trial(batch_size=n), digits).memory for n in (16, 64))
    weights = sum(p.nbytes for p in training.Pack([trial()], digits).model.parameters())
    assert small > 4 * weights
    # What the step keeps grows with the batch; weights, gradients, moments and dictionary do not.
    fixed = 4 * weights + 32 * 16
    assert (large - fixed) == pytest.approx(4 * (small - fixed), rel=0.1)
    untrained = TrialSettings.read({"method": "untrained", "backbone": {"name": "resnet8-slim", "width": 4}})
    assert training.footprint(untrained, digits).memory < small


def test_views_made_ahead_are_those_made_one_batch_at_a_time(digits: Dataset) -> None:
    views = training.Pack([trial(batch_size=32)], digits).views
    assert views.ahead > 1
    ahead = list(views.epoch(1))
    views.ahead = 1
    alone = list(views.epoch(1))
    assert len(ahead) == len(alone) == 5
    for (some, labels), (others, other_labels) in zip(ahead, alone, strict=True):
        assert torch.equal(some[0], others[0])
        assert torch.equal(labels, other_labels)


@pytest.mark.parametrize(("codes", "products"), [(16, 2), (1_000, 4)])
def test_the_operations_of_a_step_grow_with_the_products_of_the_dictionary(
    digits: Dataset, codes: int, products: int
) -> None:
    few, many = (trial(method={"codes": n, "embedding_dim": 64}) for n in (codes, 2 * codes))
    # Both views and the dictionary: logits and gradient, or with a streamed one logits twice and a gradient of two.
    dictionary = products * 2 * 2 * few.batch_size * codes * 64
    assert training.footprint(many, digits).operations - training.footprint(few, digits).operations == dictionary


def test_a_training_of_no_epochs_has_the_footprint_of_one(digits: Dataset) -> None:
    assert training.footprint(trial(epochs=0), digits) == training.footprint(trial(epochs=1), digits)


def test_raw_pixels_are_evaluated_in_packs_as_alone(digits: Dataset) -> None:
    settings = {"method": "untrained", "backbone": {"name": "pixels"}}
    probed = {"evaluation": {"probe": ["sgd"], "probe_augment": True}}
    trials = [TrialSettings.read({**settings, **probed, "precision": "float64", "seed": seed}) for seed in (0, 1)]
    together = training.train(trials, digits)
    alone = [training.train([one], digits)[0] for one in trials]
    for own, other in zip(together, alone, strict=True):
        assert own.metrics["probe_sgd/accuracy"] == pytest.approx(other.metrics["probe_sgd/accuracy"], rel=1e-8)


def test_a_block_as_wide_as_the_image_has_channels_can_be_packed(digits: Dataset) -> None:
    coloured = dataclasses.replace(
        digits, train=Split(digits.train.images.repeat(1, 3, 1, 1), digits.train.labels), test=digits.test
    )
    trials = [
        trial(method={"beta": beta}, backbone={"name": "resnet8", "width": 3}, precision="float64", epochs=1)
        for beta in (0.1, 1.0)
    ]
    pack = training.Pack(trials, coloured)
    losses = [metrics["train/loss"] for _, metrics in pack.train_epoch()]
    for loss, own in zip(losses, trials, strict=True):
        ((_, metrics),) = training.Pack([own], coloured).train_epoch()
        assert loss == pytest.approx(metrics["train/loss"], rel=1e-8)


def test_each_member_keeps_the_time_of_its_own_training(digits: Dataset) -> None:
    trials = [trial(method={"beta": beta}) for beta in (0.1, 1.0)]
    pack = training.Pack(trials, digits)
    pack.train_epoch()
    states = [pack.member_state(k) for k in range(2)]
    states[1]["seconds"] = 1000.0
    other = training.Pack(trials, digits)
    other.load_member_states(states)
    assert [other.member_state(k)["seconds"] for k in range(2)] == [states[0]["seconds"], 1000.0]
    other.train_epoch()
    assert [outcome.metrics["time/train_s"] > 1000 for outcome in other.evaluate()] == [False, True]


@pytest.mark.parametrize("backbone", ["pixels", "resnet8-slim"])
def test_baselines_are_evaluated_without_training(digits: Dataset, backbone: str) -> None:
    (outcome,) = training.train([TrialSettings.read({"method": "untrained", "backbone": {"name": backbone}})], digits)
    assert outcome.metrics["probe/accuracy"] > 0.3
    assert not any(name.startswith(("codes/", "collapse/")) for name in outcome.metrics)


def test_trials_that_do_not_fit_are_refused(digits: Dataset) -> None:
    with pytest.raises(InputError, match="batch_size 512 is larger than the 160 training images"):
        training.Pack([trial(batch_size=512)], digits)
    with pytest.raises(InputError, match=r"images of 3 pixels are too small for backbone .* needs 4"):
        training.Pack([trial(method={"name": "dino"}, augment={"local_views": 1, "local_size": 3})], digits)
    with pytest.raises(ValueError, match=r"differ in method.codes cannot share a pack"):
        training.Pack([trial(), trial(method={"codes": 33})], digits)
    with pytest.raises(ValueError, match="cannot share a pack"):
        training.Pack([trial(), TrialSettings.read({"method": "untrained"})], digits)


@needs("g++")
@pytest.mark.parametrize("name", ["cplearn", "dino"])
def test_a_compiled_backbone_trains_to_the_same_losses(digits: Dataset, name: str) -> None:
    one = trial(method={"name": name}, epochs=1)
    _, (reference,) = run([one], digits)
    pack = training.Pack([one], digits, compile=True)
    metrics = dict(pack.train_epoch())[0]
    assert metrics["train/loss"] == pytest.approx(reference[0]["train/loss"], rel=1e-4)
    assert pack.evaluate()[0].failure is None
    assert not any("_orig_mod" in name for name in pack.member_state(0)["model"])


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_trains(digits: Dataset, precision: str) -> None:
    pack, (log,) = run([trial(precision=precision)], digits)
    _, (reference,) = run([trial()], digits)
    assert log[-1]["train/loss"] == pytest.approx(reference[-1]["train/loss"], rel=0.1)
    assert all(p.dtype == torch.float32 for p in pack.model.parameters())


def test_in_float16_a_member_that_overflows_changes_no_bit_of_the_others(digits: Dataset) -> None:
    logs = []
    for scale in (2.0**6, 2.0**60):
        pack = training.Pack([trial(precision="float16", seed=seed) for seed in range(3)], digits)
        # So small a scale overflows by itself in no member.
        pack.optimizer.loss_scale.scale[:] = torch.tensor([64.0, scale, 64.0])
        before = pack.member_state(1)
        logs.append(dict(pack.train_epoch()))
    # Every update of the second member was skipped, and nothing but its scale has moved.
    assert pack.optimizer.loss_scale.skipped.tolist() == [0, pack.steps_per_epoch, 0]
    assert pack.optimizer.loss_scale.scale[1] == 2.0 ** (60 - pack.steps_per_epoch)
    after = pack.member_state(1)
    moving = ("running_mean", "running_var")  # as in any forward pass
    assert all(torch.equal(after["model"][n], t) for n, t in before["model"].items() if not n.endswith(moving))
    assert all(torch.equal(after["optimizer"][n], t) for n, t in before["optimizer"].items() if "scale" not in n)
    for k in (0, 2):
        assert logs[0][k]["train/loss"] == logs[1][k]["train/loss"]


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "sgd", "lr": 0.1, "momentum": 0.5, "weight_decay": 1e-3},
        {"name": "lars", "lr": 0.3, "eta": 0.01, "weight_decay": 1e-4, "scale_lr": True},
        {"name": "adamw", "weight_decay": 0.04, "weight_decay_end": 0.4, "clip": 0.5, "lr_end": 1e-5},
    ],
)
def test_every_optimiser_keeps_members_apart(digits: Dataset, optimizer: dict[str, Any]) -> None:
    """In float64 after 20 steps, like the test of the methods above."""
    shared = {"precision": "float64", "epochs": 4}
    trials = [
        trial(**shared, optimizer={**optimizer, "warmup_epochs": 1}),
        trial(**shared, optimizer={**optimizer, "lr": 0.01, "clip": 0.1}),
        trial(**shared, optimizer={"name": optimizer["name"], "scale_lr": optimizer.get("scale_lr", False)}, seed=1),
    ]
    together, logs = run(trials, digits)
    features = together.model.features(digits.test.images)
    for k, one in enumerate(trials):
        alone, (own_log,) = run([one], digits)
        for together_epoch, own_epoch in zip(logs[k], own_log, strict=True):
            assert together_epoch == pytest.approx(own_epoch, rel=1e-8)
        torch.testing.assert_close(features[k], alone.model.features(digits.test.images)[0], rtol=1e-8, atol=1e-9)
