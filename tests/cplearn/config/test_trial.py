"""Trial settings: defaults, refusals, identity."""

from __future__ import annotations

import pytest

from cplearn.config import trial as config
from cplearn.config.trial import TrialSettings
from cplearn.errors import InputError
from sweeps.settings import sweep_key, trial_key


def key(settings: dict, fingerprint: str = "data") -> str:
    return trial_key(TrialSettings.read(settings).identity(), fingerprint, config.NUMERICS)


def test_canonical_settings_read_back_as_the_same_trial() -> None:
    trial = TrialSettings.read({"dataset": "svhn", "method": {"name": "cplearn", "beta": 0.5}})
    assert TrialSettings.read(trial.canonical()) == trial


def test_defaults_follow_the_data_set() -> None:
    assert TrialSettings.read({"dataset": "cifar100"}).backbone.width == 256
    assert TrialSettings.read({"dataset": "cifar100"}).flat()["method.embedding_dim"] == 256
    assert (
        TrialSettings.read({"dataset": "cifar100", "method": {"embedding_dim": 64}}).flat()["method.embedding_dim"]
        == 64
    )
    assert TrialSettings.read({"dataset": "imagenet100"}).backbone.model == "vit_small_patch16_224"
    assert TrialSettings.read({"dataset": "svhn"}).augment.recipe == "paper-noflip"
    assert TrialSettings.read({"dataset": "svhn", "backbone": {"name": "resnet8-slim"}}).backbone.width == 32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, r"unknown key 'epoch'; did you mean 'epochs'\?"),
        ({"beta": 3}, r"unknown key 'beta'; did you mean 'method.beta'\?"),
        ({"method": {"bta": 3}}, r"unknown key 'method.bta'; did you mean 'method.beta'\?"),
        ({"backbone": {"widht": 3}}, r"unknown key 'backbone.widht'; did you mean 'backbone.width'\?"),
        ({"method": "cplern"}, r"unknown method.name 'cplern'; did you mean 'cplearn'\?"),
        ({"method": {"name": 3}}, r"unknown method.name 3"),
        ({"dataset": "shvn"}, r"unknown dataset 'shvn'; did you mean 'svhn'\?"),
        ({"dataset": "folder:"}, r"write folder:PATH"),
        ({"dataset": 5}, r"dataset: must be a valid string, not 5"),
        ({"method": {"beta": -1}}, r"method.beta: must be greater than 0, not -1"),
        ({"method": {"beta": float("nan")}}, r"method.beta: must be a finite number"),
        ({"augment": {"recipe": "paper", "crop_scale_min": 0.4}}, r"recipe 'paper' has no random resized crop"),
        ({"dataset": "imagenet100", "normalisation": "channels"}, r"normalisation 'channels' needs all pixels"),
        ({"method": {"codes": 1}}, r"method.codes: must be greater than or equal to 2, not 1"),
        ({"method": {"codes": 10, "epsilon": 0.2}}, r"ε\(c-1\) must be below"),
        ({"batch_size": "64"}, r"batch_size: must be a valid integer, not '64'"),
        ({"batch_size": True}, r"batch_size: must be a valid integer, not True"),
        ({"epochs": 1.5}, r"epochs: must be a valid integer"),
        ({"epochs": 2, "optimizer": {"warmup_epochs": 3}}, r"warmup_epochs 3 is longer than epochs 2"),
        ({"backbone": {"name": "pixels"}}, r"nothing to train"),
        ({"augment": {"local_views": 2}}, r"local_views 2: method 'cplearn' has no use for local crops .*dino, .*swav"),
        ({"method": "swav", "augment": {"local_size": 4}}, r"local_size has no effect .* set augment.local_views too"),
        (
            {"method": "swav", "augment": {"local_views": 1, "local_scale_min": 0.5}},
            r"local_scale_min 0.5 is larger than local_scale_max 0.4",
        ),
        ({"backbone": {"name": "timm"}}, r"'timm' needs backbone.model"),
        ({"backbone": {"name": "timm", "model": "vit", "width": 8}}, r"backbone.width: a timm model has its own width"),
        ({"backbone": {"drop_path": 0.1}}, r"backbone.drop_path has no effect on resnet8-slim; it belongs to timm"),
        ({"backbone": {"name": "resnet8", "stem": "imagenet"}}, r"backbone.stem has no effect on resnet8"),
        ({"backbone": {"name": "resnet18", "stem": "imagenet", "stem_padding": 2}}, r"belongs to the cifar stem"),
        ({"optimizer": {"momentum": 0.5}}, r"optimizer.momentum has no effect on adam; it belongs to sgd and lars"),
        ({"optimizer": {"name": "sgd", "eta": 0.1}}, r"optimizer.eta has no effect on sgd; it belongs to lars"),
        ({"optimizer": {"schedule": "constant", "lr_end": 0.1}}, r"lr_end needs optimizer.schedule cosine"),
        ({"backbone": 3}, r"backbone: must be a valid dictionary"),
        ({"evaluation": {"probe": "lbfs"}}, r"evaluation.probe.0: must be 'lbfgs', 'sgd' or 'adam', not 'lbfs'"),
        ({"evaluation": {"gmm_components": [10, 0]}}, r"evaluation.gmm_components.0: must be greater than"),
        ({"evaluation": {"online_lr": 0.2}}, r"online_lr has no effect without the online probe"),
        ({"evaluation": {"transfer": [[1]]}}, r"evaluation.transfer.0: must be a valid string"),
        ({"epochs": 10**400}, r"epochs: must be less than 2\*\*63"),
        ({"evaluation": {"transfer": ["cifar"]}}, r"unknown dataset 'cifar'; did you mean 'cifar10'"),
        ({"method": 3}, r"method must be a group of settings"),
    ],
)
def test_bad_settings_are_refused_with_key_and_value(settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrialSettings.read(settings)


@pytest.mark.parametrize(
    "same",
    [
        {"method": {"name": "cplearn", "beta": 1}},
        {"method": {"beta": 1.0}, "dataset": "digits"},
        {"epochs": 20.0, "method": "cplearn"},
        {"evaluation": {"probe": "lbfgs", "transfer": [], "validation": 0.1}},
        {"seed": 0, "optimizer": {"lr": 0.001}, "backbone": {"name": "resnet8-slim", "width": 32}},
    ],
)
def test_written_and_omitted_defaults_have_one_key(same: dict) -> None:
    assert key(same) == key({})


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"method": {"beta": 0.5}}, {"epochs": 21}, {"dataset": "svhn"}, {"augment": {"strength": 0.5}}],
)
def test_other_settings_have_another_key(other: dict) -> None:
    assert key(other) != key({})


def test_key_depends_on_data_and_numerics_but_not_on_where_a_folder_lies() -> None:
    assert key({}, "other data") != key({})
    assert trial_key({}, "data", 1) != trial_key({}, "data", 2)
    assert key({"dataset": "folder:/a/images"}) == key({"dataset": "folder:/b/images"})


def test_a_set_is_the_same_in_any_order() -> None:
    ordered, other = {"gmm_components": [10, 20.0], "probe": ["lbfgs", "sgd"]}, {"gmm_components": [20, 10, 10]}
    assert key({"evaluation": ordered}) == key({"evaluation": {**other, "probe": ["sgd", "lbfgs"]}})
    assert key({"evaluation": ordered}) != key({"evaluation": other})


def test_an_untrained_backbone_does_not_depend_on_training_settings() -> None:
    assert key({"method": "untrained", "epochs": 7, "batch_size": 8}) == key({"method": "untrained"})
    trained_only = {"online_probe": True, "online_lr": 0.2, "lidar": True, "view_images": 9, "gmm_components": [3]}
    assert key({"method": "untrained", "evaluation": trained_only}) == key({"method": "untrained"})
    assert key({"method": "untrained", "seed": 1}) != key({"method": "untrained"})


def test_keys_of_the_defaults_are_pinned() -> None:
    """If this fails, a default has changed: raise `config.NUMERICS`, or old trials are taken for what they are not."""
    pinned = {
        "dataset": "digits",
        "image_size": None,
        "decode": "cached",
        "train_images": None,
        "test_images": None,
        "test_share": None,
        "normalisation": "scalar",
        "method.name": "cplearn",
        "method.beta": 1.0,
        "method.codes": 2048,
        "method.embedding_dim": 128,
        "method.form": "l2",
        "method.prior": "reverse",
        "method.symmetric": True,
        "method.epsilon": 1e-8,
        "method.temperature": None,
        "method.batch_parts": 1,
        "backbone.name": "resnet8-slim",
        "backbone.width": 32,
        "backbone.stem": "cifar",
        "backbone.stem_padding": 1,
        "backbone.model": None,
        "backbone.drop_path": 0.0,
        "augment.recipe": "digits",
        "augment.crop_scale_min": None,
        "augment.strength": 1.0,
        "augment.local_views": 0,
        "augment.local_size": None,
        "augment.local_scale_min": 0.05,
        "augment.local_scale_max": 0.4,
        "optimizer.name": "adam",
        "optimizer.lr": 1e-3,
        "optimizer.scale_lr": False,
        "optimizer.lr_end": 0.0,
        "optimizer.weight_decay": 0.0,
        "optimizer.weight_decay_end": None,
        "optimizer.clip": None,
        "optimizer.momentum": 0.9,
        "optimizer.eta": 0.02,
        "optimizer.trust_clip": True,
        "optimizer.decay_norms": False,
        "optimizer.schedule": "cosine",
        "optimizer.warmup_epochs": 0.0,
        "optimizer.warmup_lr": 3e-5,
        "evaluation.probe": ["lbfgs"],
        "evaluation.probe_augment": False,
        "evaluation.probe_c": 1.0,
        "evaluation.knn_neighbours": 20,
        "evaluation.knn_temperature": 0.07,
        "evaluation.kmeans_restarts": 10,
        "evaluation.validation": 0.1,
        "evaluation.view_images": 500,
        "evaluation.lidar": False,
        "evaluation.gmm_components": [],
        "evaluation.transfer": [],
        "evaluation.online_probe": False,
        "evaluation.online_lr": 0.1,
        "evaluation.watch_images": 128,
        "evaluation.watch_every": 1,
        "evaluation.kept_images": 2000,
        "epochs": 20,
        "batch_size": 64,
        "precision": "float32",
        "seed": 0,
        "common_random_numbers": True,
    }
    assert (config.NUMERICS, TrialSettings.read({}).flat()) == (4, pinned)


def test_every_setting_has_a_sentence() -> None:
    assert all(sentence.endswith(".") for sentence in config.known_keys().values())


def test_an_enlarged_grid_is_the_same_sweep() -> None:
    assert sweep_key("beta", {"epochs": 5}, ["a", "b"]) == sweep_key("beta", {"epochs": 5}, ["b", "a"])
    assert sweep_key("beta", {"epochs": 5}, ["a"]) != sweep_key("beta", {"epochs": 6}, ["a"])
