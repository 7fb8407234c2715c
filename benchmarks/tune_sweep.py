"""Nine values of β as Ray Tune's documentation teaches it: a function that reports its epochs, a grid, the callback for
MLflow, and default settings. `python -m benchmarks.tune_sweep STORE EPOCHS` prints the seconds that the trials have
taken."""

from __future__ import annotations

import sys
import time
from typing import Any

BETAS = [0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]


def train(config: dict[str, Any]) -> None:
    """One trial, trained and evaluated by the same code as in this program's sweeps."""
    import torch
    from ray import tune

    from cplearn import data
    from cplearn.config.trial import TrialSettings
    from cplearn.training import TrialTraining

    start = time.perf_counter()
    torch.set_num_threads(1)
    settings = {"epochs": config["epochs"], "method": {"codes": 2048, "beta": config["beta"]}}
    training = TrialTraining(TrialSettings.read(settings), data.load("digits"))
    while not training.finished:
        metrics = training.train_epoch()
        if not training.finished:
            tune.report(metrics)
    tune.report(metrics | training.evaluate().metrics | {"seconds": time.perf_counter() - start})


def main(store: str, epochs: int) -> None:
    """Run the sweep; the trials' metrics go to MLflow."""
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    tuner = tune.Tuner(
        train,
        param_space={"beta": tune.grid_search(BETAS), "epochs": epochs},
        run_config=tune.RunConfig(callbacks=[MLflowLoggerCallback(tracking_uri=store, experiment_name="beta")]),
    )
    results = tuner.fit()
    print("trained", sum(result.metrics["seconds"] for result in results))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
