"""Small trials on digits, for tests of training and evaluation."""

from __future__ import annotations

from typing import Any

import torch

from cplearn import training
from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset

SMALL: dict[str, dict[str, Any]] = {
    "cplearn": {"codes": 32, "embedding_dim": 16, "beta": 0.5},
    "supervised": {},
    "untrained": {},
    # Schedules of two epochs, as the trials have.
    "dino": {"hidden_dim": 16, "embedding_dim": 8, "codes": 12, "warmup_epochs": 2},
    "swav": {"hidden_dim": 16, "embedding_dim": 8, "codes": 12, "queue": 40, "queue_from_epoch": 1},
    "self_classifier": {"hidden_dim": 16, "embedding_dim": 8, "codes": 12},
    "gedi": {"hidden_dim": 16, "codes": 12},
    **{
        name: {"hidden_dim": 16, "embedding_dim": 8}
        for name in ("barlow_twins", "byol", "lejepa", "mmcr", "simclr", "simdino", "simsiam", "vicreg")
    },
}


def trial(*several: dict[str, Any], **changes: Any) -> TrialSettings:
    """A small trial; of several changes to one group of settings the last counts, key by key."""
    several = (*several, changes)
    method = next((c["method"]["name"] for c in several if "name" in c.get("method", {})), "cplearn")
    settings: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 32,
        "backbone": {"name": "resnet8-slim", "width": 4},
        "method": SMALL.get(method, {}),
        "evaluation": {"kmeans_restarts": 1},
    }
    for key, value in (item for change in several for item in change.items()):
        settings[key] = {**settings.get(key, {}), **value} if isinstance(value, dict) else value
    return TrialSettings.read(settings)


def run(trial: TrialSettings, dataset: Dataset) -> tuple[training.TrialTraining, list[dict[str, float]]]:
    """A trial trained to its end, and its logged epochs without their speed."""
    whole = training.TrialTraining(trial, dataset)
    return whole, to_end(whole)


def to_end(trained: training.TrialTraining) -> list[dict[str, float]]:
    """The logged epochs, without their speed, that are left of a training."""
    logs = []
    while not trained.finished:
        logs.append({k: v for k, v in trained.train_epoch().items() if "per_second" not in k})
    return logs


def assert_same_state(state: Any, expected: Any) -> None:
    """Raise AssertionError unless two nested states have the same keys, and the same bits in every tensor."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(state, expected)
    elif isinstance(expected, dict):
        assert state.keys() == expected.keys()
        for key in expected:
            if key != "seconds":
                assert_same_state(state[key], expected[key])
    elif isinstance(expected, list):
        for item, other in zip(state, expected, strict=True):
            assert_same_state(item, other)
    else:
        assert state == expected
