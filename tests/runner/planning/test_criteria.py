"""Which metrics a search may aim at, and a scheduler may look at."""

from __future__ import annotations

from typing import Any

import pytest

import cplearn.data
from cplearn import training
from cplearn.config.trial import TrialSettings
from cplearn.errors import InputError
from runner.planning.criteria import check_epochs, check_objectives, check_scheduler, check_without_labels
from sweeps.file import CollapseSettings, SweepFile

ALL = {
    "lidar": True,
    "probe": ["lbfgs", "sgd", "adam"],
    "gmm_components": [10],
    "transfer": ["digits"],
    "online_probe": True,
    "kmeans_restarts": 1,
}


def trial(**evaluation: Any) -> TrialSettings:
    small = {"backbone": {"name": "resnet8-slim", "width": 4}, "method": {"codes": 16, "embedding_dim": 8}}
    size = {"train_images": 200, "test_images": 100, "epochs": 1}
    return TrialSettings.read({"dataset": "digits", **small, **size, "evaluation": evaluation})


def test_every_metric_that_a_trial_ends_with_is_known() -> None:
    """With the whole evaluation on, so that a metric that is added later is noticed here."""
    everything = trial(**ALL)
    outcome = training.train(everything, cplearn.data.load(**everything.data_request()))
    assert len(outcome.metrics) > 40
    told = {name for name in outcome.metrics if not name.endswith(("/converged", "_std"))} | {"collapse/embedding_std"}
    check_objectives(told, everything, [("digits", "")])


@pytest.mark.parametrize(
    ("name", "evaluation", "message"),
    [
        ("validation/acuracy", {}, "did you mean 'validation/accuracy'"),
        ("score", {}, "its kinds are probe/, knn/"),
        ("validation/accuracy", {"validation": 0.0}, "only measured with evaluation.validation above 0"),
        ("select/view_information", {"view_images": 0}, "only measured with evaluation.view_images above 0"),
        ("select/lidar", {}, "only measured with evaluation.lidar: true"),
        ("probe_sgd/accuracy", {}, "only measured with evaluation.probe that has sgd"),
        ("paper/entropy_50", {"gmm_components": [10]}, "only measured with evaluation.gmm_components that has 50"),
        ("transfer/svhn/accuracy", {}, "no trial ends with the metric"),
        ("train/online_accuracy", {}, "evaluation.online_probe: true"),
    ],
)
def test_an_objective_that_will_not_be_there_is_refused(name: str, evaluation: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_objectives([name], trial(**evaluation))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"name": "optuna"}}, "search.objectives: 'validation/accuracy' needs labels, and folder:/heap has"),
        ({"search": {"name": "optuna", "objectives": {"codes/ami": "maximize"}}}, "choose by select/view_information"),
        ({"scheduler": "asha"}, "scheduler.metric: 'train/online_accuracy' needs labels, .* train/view_information"),
    ],
)
def test_without_labels_nothing_is_chosen_by_them(changes: dict[str, Any], message: str) -> None:
    file = SweepFile.model_validate({"sweep": "heap", **changes})
    with pytest.raises(InputError, match=message):
        check_without_labels(file, "folder:/heap")
    objectives = {"select/view_information": "maximize", "transfer/svhn/accuracy": "maximize"}
    allowed: list[dict[str, Any]] = [
        {},
        {"search": {"name": "optuna", "objectives": objectives}},
        {"scheduler": "collapse"},
        {"scheduler": {"name": "asha", "metric": "train/view_information"}},
    ]
    for settings in allowed:
        check_without_labels(SweepFile.model_validate({"sweep": "heap", **settings}), "folder:/heap")


def test_a_metric_of_every_epoch_is_told_from_one_of_the_end() -> None:
    check_epochs("train/loss", trial(), "here")
    check_epochs("train/online_accuracy", trial(online_probe=True), "here")
    with pytest.raises(InputError, match="here is measured once"):
        check_epochs("knn/accuracy", trial(), "here")


def test_a_collapse_that_cannot_stop_a_trial_is_refused() -> None:
    settings = {"method": {"codes": 16, "embedding_dim": 8}, "epochs": 6}

    def check(evaluation: dict[str, Any], **rule: Any) -> None:
        trials = [
            TrialSettings.read({**settings, "evaluation": evaluation}),
            TrialSettings.read({"method": "untrained"}),
        ]
        check_scheduler(CollapseSettings(**rule), trials)

    check({}, patience=5, grace=1)
    check({"watch_every": 2}, patience=2, grace=5)
    with pytest.raises(InputError, match=r"set evaluation\.watch_images above 0"):
        check({"watch_images": 0})
    for rule in ({"patience": 6}, {"grace": 6}):
        with pytest.raises(InputError, match="nothing to stop early"):
            check({}, **rule)
    with pytest.raises(InputError, match="nothing to stop early"):
        check({"watch_every": 2}, patience=3)
