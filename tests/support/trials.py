"""Small trials on digits, for tests of training and evaluation."""

from __future__ import annotations

from typing import Any

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
    **{name: {"hidden_dim": 16, "embedding_dim": 8} for name in ("barlow_twins", "vicreg", "simclr")},
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


def run(trials: list[TrialSettings], dataset: Dataset) -> tuple[training.Pack, list[list[dict[str, float]]]]:
    """A pack trained to its end, and the logged epochs of each member."""
    pack = training.Pack(trials, dataset)
    logs: list[list[dict[str, float]]] = [[] for _ in trials]
    while not pack.finished:
        for member, metrics in pack.train_epoch():
            logs[member].append({k: v for k, v in metrics.items() if "per_second" not in k})
    return pack, logs
