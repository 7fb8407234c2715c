"""Reports against a real MLflow store that holds what a sweep leaves behind, its mishaps included."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from rich.console import Console

from reports import build, figures, store, tables, terminal
from reports.errors import ReportError

from conftest import needs

BETAS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
START = 1_700_000_000_000
AWKWARD = "folder:/data/50% of_my|set #1 & {β}"


class Writer:
    """Writes trials and sweeps as the tracking module does; keys are the trials' names."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.client = MlflowClient(self.uri)
        self.experiment = self.client.create_experiment("cplearn", (folder / "mlartifacts").as_uri())
        self.clock = START
        self.runs: dict[str, str] = {}

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
        **params: Any,
    ) -> str:
        tags = {"kind": "trial", "key": trial["key"], "sweep": sweep, "dataset": trial["dataset"]}
        tags |= {"fingerprint": "f00d", "git_commit": "c0ffee", "git_edited": "false", "device": "cpu"}
        tags |= {"error": error} if error else {}
        run = self._run({f"cplearn.{key}": text for key, text in tags.items()}, trial["label"])
        settings = {"dataset": "digits", "seed": trial["seed"], "epochs": 20, "batch_size": 64, **params, **trial["point"]}
        last = {"train/loss": 1.0, **(metrics or {})}
        self.client.log_batch(
            run,
            metrics=[Metric(name, value, self.clock, 20) for name, value in last.items()],
            params=[Param(key, value if isinstance(value, str) else json.dumps(value)) for key, value in settings.items()],
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


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """Two sweeps. `beta`: of 9 β x 2 seeds, one trial failed, one was never run, one was run under another sweep, one failed
    before it finished, one finished twice. `mixed`: two axes, one of words, one seed, and names that need escaping."""
    writer = Writer(tmp_path_factory.mktemp("store"))
    names = {"raw pixels": 0.961, "random backbone": 0.56}
    trials = [declare("digits", name, {}, seed, "baseline") for name in names for seed in (0, 1)]
    trials += [declare("digits", f"β={beta:g}", {"method.beta": beta}, seed) for seed in (0, 1) for beta in BETAS]
    for trial in trials:
        beta, seed = trial["point"].get("method.beta"), trial["seed"]
        if beta is None:
            writer.trial("beta", trial, metrics=baseline_metrics(names[trial["label"]]))
        elif (beta, seed) == (2.5, 1):
            error = "Traceback:\n  ...\nFloatingPointError: the loss became nan in epoch 3"
            writer.trial("beta", trial, "FAILED", error, {"probe/accuracy": 0.123})
        elif (beta, seed) != (5, 1):
            if (beta, seed) == (0.1, 0):
                writer.trial("beta", trial, "FAILED", "MemoryError", {"probe/accuracy": 0.1})
            if (beta, seed) == (1, 0):
                writer.trial("beta", trial, metrics=trial_metrics(beta, seed) | {"probe/accuracy": 0.2})
            sweep = "earlier" if beta == 0.05 else "beta"
            writer.trial(sweep, trial, metrics=trial_metrics(beta, seed), **{"method.codes": 2048})
    axes = {"method.beta": BETAS}
    writer.sweep("beta", "an older manifest", {"method.beta": BETAS[:1]}, "digits", trials[:2])
    writer.sweep("beta", "CPLearn over the weight β of the invariance term", axes, "digits", trials)

    axes = {"method.codes": [10, 16384], "augment.recipe": ["paper_x", "none & 100%"]}
    slug = "folder-awkward"
    trials = [declare(slug, "raw_pixels|#", {}, 0, "baseline")]
    writer.trial("mixed", trials[0], metrics=baseline_metrics(0.4))
    for codes in axes["method.codes"]:
        for recipe in axes["augment.recipe"]:
            point = {"method.codes": codes, "augment.recipe": recipe}
            trials.append(declare(slug, f"codes={codes} recipe={recipe}", point, 0))
            writer.trial("mixed", trials[-1], metrics=trial_metrics(0.5, 0) | {"codes/ami": -0.0001})
    writer.sweep("mixed", r"100% of \codes, _not_ ~all~ <b>", axes, AWKWARD, trials)
    return writer
