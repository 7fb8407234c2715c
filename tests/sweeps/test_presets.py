"""The presets that claim a published configuration, arm by arm against the published values.

Values are those of the authors' and of solo-learn's files; docs/methods.md says what is changed on purpose.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cplearn import augment
from cplearn.augment.colour import ColourJitter, Grayscale, Solarise
from cplearn.augment.geometry import GaussianBlur, HorizontalFlip, RandomResizedCrop
from cplearn.training.optimisers import Schedule, build
from runner.planning.plan import SCHEMA
from sweeps.spec import Sweep, read_sweep

LARS = {"optimizer.name": "lars", "optimizer.eta": 0.02, "optimizer.trust_clip": True, "optimizer.decay_norms": False}
CIFAR = {
    "batch_size": 256,
    "epochs": 1000,
    "precision": "float16",
    "normalisation": "channels",
    "backbone.name": "resnet18",
    "backbone.width": 64,
    "backbone.stem_padding": 2,
    "optimizer.warmup_epochs": 10,
    "optimizer.warmup_lr": 3e-5,
    "optimizer.schedule": "cosine",
    "optimizer.lr_end": 0,
    "optimizer.scale_lr": False,
}
RESNET18: dict[str, dict[str, Any]] = {
    "Barlow Twins": LARS
    | {
        "method.hidden_dim": 2048,
        "method.embedding_dim": 2048,
        "method.off_diagonal": 0.0051,
        "method.scale": 0.1,
        "optimizer.lr": 0.3,
        "optimizer.weight_decay": 1e-4,
        "augment.recipe": "solo-cifar",
    },
    "VICReg": LARS
    | {
        "method.hidden_dim": 2048,
        "method.embedding_dim": 2048,
        "method.invariance": 25,
        "method.variance": 2 * 25,  # solo-learn has the sum over both views, ours is their mean.
        "method.covariance": 1,
        "optimizer.lr": 0.3,
        "optimizer.weight_decay": 1e-4,
        "augment.recipe": "solo-cifar-vicreg",
    },
    "SimCLR": LARS
    | {
        "method.hidden_dim": 2048,
        "method.embedding_dim": 256,
        "method.temperature": 0.2,
        "optimizer.lr": 0.4,
        "optimizer.weight_decay": 1e-4,
        "augment.recipe": "solo-cifar-symmetric",
    },
    "SwAV": LARS
    | {
        "method.hidden_dim": 2048,
        "method.embedding_dim": 128,
        "method.codes": 3000,
        "method.temperature": 0.1,
        "method.queue": 3840,
        "method.queue_from_epoch": 50,
        "method.freeze_epochs": 2,
        "optimizer.lr": 0.6,
        "optimizer.weight_decay": 1e-6,
        "augment.recipe": "solo-cifar-symmetric",
    },
    "DINO": LARS
    | {
        "method.hidden_dim": 2048,
        "method.embedding_dim": 256,
        "method.codes": 4096,
        "method.momentum": 0.9995,
        "method.teacher_temperature": 0.07,
        "optimizer.lr": 0.3,
        "optimizer.weight_decay": 1e-6,
        "augment.recipe": "solo-cifar",
    },
    "GEDI": LARS
    | {
        "method.hidden_dim": 2048,
        "method.codes": 2048,
        "method.temperature": 0.1,
        "method.beta": 0.1,
        "method.symmetric": False,
        "optimizer.lr": 0.3,
        "optimizer.weight_decay": 1e-4,
        "optimizer.eta": 0.001,
        "optimizer.trust_clip": False,
        "optimizer.decay_norms": True,
        "augment.recipe": "solo-cifar",
    },
    "CPLearn": {
        "method.codes": 16384,
        "method.embedding_dim": 2048,
        "method.beta": 1,
        "method.form": "tanh",
        "method.prior": "reverse",
        "method.symmetric": True,
        "batch_size": 64,
        "optimizer.name": "adam",
        "optimizer.scale_lr": True,
        "optimizer.weight_decay": 1e-4,
        "optimizer.decay_norms": True,
        "evaluation.online_probe": True,
        "evaluation.online_lr": 0.025,
        "augment.recipe": "solo-cifar",
    },
}
VIT = {
    "backbone.model": "vit_small_patch16_224",
    "backbone.drop_path": 0.1,
    "batch_size": 64 * 8,
    "epochs": 100,
    "optimizer.name": "adamw",
    "optimizer.weight_decay": 0.04,
    "optimizer.weight_decay_end": 0.4,
    "optimizer.warmup_epochs": 10,
    "optimizer.warmup_lr": 0,
    "optimizer.lr_end": 1e-6,
    "optimizer.clip": 3,
}
TABLE2: dict[str, dict[str, Any]] = {
    "DINO": {
        "method.momentum": 0.996,
        "method.teacher_temperature": 0.04,
        "method.hidden_dim": 2048,
        "method.embedding_dim": 256,
        "augment.local_views": 8,
        "augment.local_size": 96,
        "augment.crop_scale_min": 0.4,
        "augment.local_scale_min": 0.05,
        "augment.local_scale_max": 0.4,
    },
    "CPLearn": {"method.embedding_dim": 384, "method.prior": "reverse", "augment.local_views": 0},
}
CODES = [100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 200_000, 300_000, 500_000]


def read(root: Path, name: str) -> Sweep:
    return read_sweep(root / "sweeps" / "presets" / f"{name}.yaml", SCHEMA)


@pytest.mark.parametrize(("preset", "shared", "arms"), [("resnet18", CIFAR, RESNET18), ("table2", VIT, TABLE2)])
def test_every_arm_has_the_published_settings(root: Path, preset: str, shared: dict, arms: dict) -> None:
    trials = [trial for trial in read(root, preset).trials if trial.role == "trial"]
    names = {str(trial.point.get("arm", "")) for trial in trials}
    assert names == arms.keys()
    for trial in trials:
        flat, published = trial.settings.flat(), shared | arms[trial.point["arm"]]
        assert {key: flat[key] for key in published} == published, trial.label
    assert {trial.seed for trial in trials} == {0, 1, 2}


@pytest.mark.parametrize(("preset", "arm", "peak"), [("resnet18", "CPLearn", 2.5e-4), ("table2", "DINO", 1e-3)])
def test_the_peak_of_the_learning_rate_is_the_published_one(root: Path, preset: str, arm: str, peak: float) -> None:
    import torch

    trial = next(t.settings for t in read(root, preset).trials if t.point.get("arm") == arm)
    weights = [torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(2))]
    schedule = Schedule(build(trial.optimizer, weights), trial.optimizer, trial.epochs, 10, trial.batch_size)
    assert schedule.rate(10 * 10) == pytest.approx(peak)
    decays = [group["weight_decay"] for group in schedule.optimizer.param_groups]
    assert decays == [trial.optimizer.weight_decay] * 2 if trial.optimizer.decay_norms else decays[1] == 0


def test_table2_has_the_published_numbers_of_codes(root: Path) -> None:
    assert read(root, "table2").axes["method.codes"] == CODES


def test_the_views_of_solo_learn_are_the_published_ones() -> None:
    def crop(smallest: float) -> RandomResizedCrop:
        return RandomResizedCrop(scale=(smallest, 1.0), interpolation="bicubic")

    weak, grey, flip = ColourJitter(0.4, 0.4, 0.2, 0.1, p=0.8), Grayscale(p=0.2), HorizontalFlip(0.5)
    first, second = augment.RECIPES["solo-cifar"].views
    assert first == (crop(0.08), weak, grey, flip)
    assert second == (crop(0.08), weak, grey, Solarise(p=0.2), flip)
    assert augment.RECIPES["solo-cifar-vicreg"].views == ((crop(0.2), weak, grey, Solarise(p=0.1), flip),) * 2
    strong, blur = ColourJitter(0.8, 0.8, 0.8, 0.2, p=0.8), GaussianBlur(radius=6, sigma=(0.1, 2.0), p=0.5)
    assert augment.RECIPES["solo-cifar-symmetric"].views == ((crop(0.08), strong, grey, blur, flip),) * 2
    assert augment.RECIPES["imagenet"].with_crop_scale(0.4).crops == (crop(0.4),) * 2
