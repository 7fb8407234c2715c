"""How long a trial takes, from finished runs of its kind or from similar ones."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from runner.planning.plan import Plan
from runner.timing.timings import SIMILAR_RUNS, Timing, timed_trials, timing_key, timing_of
from sweeps.record import DatasetUse, param_text

HERE = {"device": "cpu", "device_name": "Abacus 1", "threads": "1", "ranks": "1"}


def record(plan: Plan, epoch: float, evaluation: float, epochs: int = 10, **changed: Any) -> dict[str, Any]:
    """A finished run of the plan's first trial, as the store gives it; `changed` settings or tags."""
    job, use = plan.jobs[0], plan.datasets[0]
    params = {key: param_text(value) for key, value in job.trial.flat().items()} | {"epochs": str(epochs)}
    tags = {**HERE, "fingerprint": job.fingerprint}
    for key, value in changed.items():
        (tags if key in tags else params)[key.replace("__", ".")] = str(value)
    return {
        "params": params,
        "tags": tags,
        "metrics": {"time/train_s": epoch * epochs, "time/evaluation_s": evaluation},
        "data": {key: getattr(use, key) for key in ("train_images", "test_images", "channels", "image_size")},
    }


def same(plan: Plan, *records: dict[str, Any], hardware: dict[str, str] = HERE) -> Timing | None:
    timing = timing_of(plan.jobs[0], plan.datasets[0], timed_trials(records, hardware))
    return timing if timing and timing.source == "finished runs" else None


def similar(plan: Plan, record: dict[str, Any], use: DatasetUse | None = None, fingerprint: str = "") -> Timing | None:
    job = dataclasses.replace(plan.jobs[0], fingerprint=fingerprint or plan.jobs[0].fingerprint)
    return timing_of(job, use or plan.datasets[0], timed_trials([record], HERE))


def test_numbers_seeds_and_epochs_do_not_make_another_kind(plan: Plan) -> None:
    job = plan.jobs[0]
    assert len({timing_key(job) for job in plan.jobs}) == 1
    changes = {"epochs": 3, "seed": 9, "batch_size": 32}
    kinds = [
        timing_key(dataclasses.replace(job, trial=job.trial.model_copy(update={name: value})))
        for name, value in changes.items()
    ]
    assert [kind == timing_key(job) for kind in kinds] == [True, True, False]
    assert timing_key(dataclasses.replace(job, fingerprint="other")) != timing_key(job)


def test_runs_of_the_kind_give_epochs_evaluation_and_range(plan: Plan) -> None:
    timing = same(plan, record(plan, 2, 5, epochs=4), record(plan, 3, 6), record(plan, 4, 7, seed=9, method__beta=3.0))
    assert timing is not None
    assert (timing.epoch, timing.evaluation, timing.source, timing.runs) == (3, 6, "finished runs", 3)
    assert timing.seconds(100).middle == 306
    # Ten epochs of the three take 25, 36 and 47 s.
    assert 25 / 36 < timing.low < 1 < timing.high < 47 / 36


@pytest.mark.parametrize(
    "changed",
    [{"threads": 2}, {"device": "cuda"}, {"device_name": "Abacus 2"}, {"ranks": 2}, {"backbone__width": 8}],
)
def test_other_hardware_and_other_kinds_say_nothing(plan: Plan, changed: dict[str, Any]) -> None:
    assert same(plan, record(plan, 2, 5, **changed)) is None


def test_a_setting_that_a_run_lacks_has_its_default(plan: Plan) -> None:
    old = record(plan, 2, 5)
    del old["params"]["precision"]
    assert same(plan, old) is not None


def test_similar_runs_are_scaled_by_operations_and_less_sure(plan: Plan) -> None:
    timing = similar(plan, record(plan, 8, 5, backbone__width=8))
    assert timing is not None
    assert (timing.source, timing.high) == ("similar runs", SIMILAR_RUNS)
    # A convolution of half the width has a quarter of the operations.
    assert 2 < timing.epoch < 3
    assert similar(plan, record(plan, 8, 5, backbone__name="resnet8")) is None
    assert similar(plan, record(plan, 8, 5, unheard_of="1")) is None


def test_more_images_take_longer(plan: Plan) -> None:
    use = plan.datasets[0]
    twice = dataclasses.replace(use, train_images=2 * use.train_images, test_images=2 * use.test_images)
    timing = similar(plan, record(plan, 2, 5), twice, "other")
    assert timing is not None
    assert (timing.epoch, timing.evaluation) == (pytest.approx(4), pytest.approx(10))


def test_a_key_is_text_that_names_the_images_first(plan: Plan) -> None:
    assert json.loads(timing_key(plan.jobs[0]))[0] == plan.jobs[0].fingerprint
