"""Tracking stores filled by hand, for tests of reports."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

BETAS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]


START = 1_700_000_000_000


AWKWARD = "folder:/data/50% of_my|set #1 & {β}"


class Writer:
    """Writes trials and sweeps as the tracking module does; a trial's key is `<data set>/<label>/<seed>`."""

    def __init__(self, uri: str, artifacts: Path | None = None, experiment: str = "cplearn") -> None:
        self.uri = uri
        self.client = MlflowClient(uri)
        self.experiment = self.client.create_experiment(experiment, artifacts.as_uri() if artifacts else None)
        self.clock = START
        self.runs: dict[str, str] = {}

    def of(self, uri: str) -> Writer:
        """The writer of a copy of the store."""
        other = copy.copy(self)
        other.uri, other.client, other.runs = uri, MlflowClient(uri), dict(self.runs)
        return other

    def _run(self, tags: Mapping[str, str], name: str) -> str:
        self.clock += 1000
        return self.client.create_run(self.experiment, self.clock, dict(tags), name).info.run_id

    def trial(
        self,
        sweep: str,
        trial: Mapping[str, Any],
        status: str = "FINISHED",
        error: str | None = None,
        metrics: Mapping[str, float] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> str:
        tags = {"kind": "trial", "key": trial["key"], "sweep": sweep, "dataset": trial["dataset"]}
        tags |= {"fingerprint": "f00d", "git_commit": "c0ffee", "git_edited": "false", "device": "cpu"}
        tags |= {"error": error} if error else {}
        run = self._run({f"cplearn.{key}": text for key, text in tags.items()}, trial["label"])
        common = {"dataset": "digits", "seed": trial["seed"], "epochs": 20, "batch_size": 64}
        last = {"train/loss": 1.0, **(metrics or {})}
        self.client.log_batch(
            run,
            metrics=[Metric(name, value, self.clock, 20) for name, value in last.items()],
            params=[
                Param(key, value if isinstance(value, str) else json.dumps(value))
                for key, value in (common | dict(settings or {}) | trial["point"]).items()
            ],
        )
        self.client.set_terminated(run, status, self.clock)
        self.runs[trial["key"]] = run
        return run

    def sweep(
        self, name: str, description: str, axes: Mapping[str, Sequence[Any]], dataset: str, trials: list[dict[str, Any]]
    ) -> str:
        run = self._run({"cplearn.kind": "sweep", "cplearn.sweep": name}, name)
        manifest = {
            "version": 1,
            "sweep": name,
            "description": description,
            "axes": axes,
            "seeds": sorted({trial["seed"] for trial in trials}),
            "datasets": [{"name": dataset, "slug": trials[0]["dataset"], "fingerprint": "f00d"}],
            "trials": trials,
        }
        self.client.log_dict(run, manifest, "manifest.json")
        self.client.set_terminated(run, "FINISHED", self.clock)
        return run


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def baseline_metrics(accuracy: float) -> dict[str, float]:
    return {
        "probe/accuracy": accuracy,
        "knn/accuracy": accuracy - 0.01,
        "kmeans/nmi": 0.7,
        "kmeans/nmi_chance": 0.03,
        "kmeans/ami": 0.69,
        "time/wall_s": 0.5,
    }


def trial_metrics(beta: float, seed: int) -> dict[str, float]:
    """Numbers with the shape of a real sweep: a best β in the middle, few codes at the largest."""
    quality = 1 - 0.05 * math.log10(beta / 0.5) ** 2
    used = max(3, round(600 / (1 + 20 * beta)))
    nmi = 0.9 * quality
    return baseline_metrics(0.99 * quality + 0.002 * seed) | {
        "codes/nmi": nmi + 0.01 * seed,
        "codes/nmi_chance": 0.02 * math.log2(used),
        "codes/ami": nmi - 0.02 * math.log2(used) + 0.01 * seed,
        "codes/ari": 0.8 * quality,
        "codes/accuracy": 0.85 * quality,
        "codes/clusters": used,
        "collapse/codes_used": used + seed,
        "collapse/effective_rank": 8 + 4 * quality,
    }


def declare(dataset: str, label: str, point: Mapping[str, Any], seed: int, role: str = "trial") -> dict[str, Any]:
    key = f"{dataset}/{label}/{seed}"
    return {"key": key, "dataset": dataset, "role": role, "label": label, "point": dict(point), "seed": seed}
