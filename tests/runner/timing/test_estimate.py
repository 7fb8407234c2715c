"""Expected times: from records whose arithmetic can be done by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cplearn.data
from cplearn.errors import InputError
from cplearn.training import train
from runner.planning.plan import SCHEMA, Plan, make_plan, spell
from runner.timing.calibrate import calibrate
from runner.timing.estimate import START, Timing, calibrated, kind, simulate, stored_bytes, timing
from sweeps.spec import read_sweep

HERE = {"device": "cpu", "device_name": "Abacus 1", "threads": "1", "ranks": "1"}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    (tmp_path / "tiny.yaml").write_text(
        "sweep: tiny\nsettings: {epochs: 10, backbone: {width: 4}, method: {codes: 32, embedding_dim: 16}}\n"
        "axes: {method.beta: [0.1, 1, 10]}\nseeds: 2\n"
    )
    return make_plan(read_sweep(tmp_path / "tiny.yaml", SCHEMA))


def record(plan: Plan, epoch: float, evaluation: float, epochs: int = 10, **changed: Any) -> dict[str, Any]:
    """A finished run of the plan's first trial, as the store gives it; `changed` settings or tags."""
    job, use = plan.jobs[0], plan.datasets[0]
    params = {key: spell(value) for key, value in job.trial.flat().items()} | {"epochs": str(epochs)}
    tags = {**HERE, "fingerprint": job.fingerprint, "pack_width": "1"}
    for key, value in changed.items():
        (tags if key in tags else params)[key.replace("__", ".")] = str(value)
    return {
        "params": params,
        "tags": tags,
        "metrics": {"time/train_s": epoch * epochs, "time/evaluation_s": evaluation},
        "data": {key: getattr(use, key) for key in ("train_images", "test_images", "channels", "image_size")},
    }


def test_runs_of_the_kind_give_epochs_and_evaluation(plan: Plan) -> None:
    records = [record(plan, 2, 5, epochs=4), record(plan, 3, 6), record(plan, 4, 7, seed=9, method__beta=3)]
    found = timing(plan.jobs[:1], records, HERE, plan.datasets[0])
    assert found is not None
    assert (found.epoch, found.evaluation, found.source, found.runs) == (3, 6, "finished runs", 3)
    assert found.seconds(100) == 306


@pytest.mark.parametrize("changed", [{"threads": 2}, {"device": "cuda"}, {"device_name": "Abacus 2"}, {"ranks": 2}])
def test_other_hardware_says_nothing(plan: Plan, changed: dict[str, Any]) -> None:
    assert timing(plan.jobs[:1], [record(plan, 2, 5, **changed)], HERE, plan.datasets[0]) is None


def test_runs_of_before_there_were_ranks_had_one(plan: Plan) -> None:
    old = record(plan, 2, 5)
    del old["tags"]["ranks"]
    found = timing(plan.jobs[:1], [old], HERE, plan.datasets[0])
    assert found is not None
    assert found.epoch == 2
    assert timing(plan.jobs[:1], [old], HERE | {"ranks": "2"}, plan.datasets[0]) is None


def test_other_runs_are_scaled_and_less_sure(plan: Plan) -> None:
    wider = record(plan, 8, 5, backbone__width=8)
    found = timing(plan.jobs[:1], [wider], HERE, plan.datasets[0])
    assert found is not None
    assert found.source == "similar runs"
    assert 1 < found.epoch < 7
    exact = timing(plan.jobs[:1], [wider, record(plan, 2, 5)], HERE, plan.datasets[0])
    assert exact is not None
    assert (exact.epoch, exact.source) == (2, "finished runs")
    assert exact.doubt < found.doubt


def test_more_images_and_wider_packs_take_longer(plan: Plan) -> None:
    use = plan.datasets[0]
    twice = dataclasses.replace(use, train_images=2 * use.train_images, test_images=2 * use.test_images)
    strange = [dataclasses.replace(plan.jobs[0], fingerprint="other")]
    found = timing(strange, [record(plan, 2, 5)], HERE, twice)
    assert found is not None
    assert (found.epoch, found.evaluation) == (pytest.approx(4, rel=0.05), pytest.approx(10))
    packed = timing(plan.jobs[:3], [record(plan, 2, 5)], HERE, use)
    assert packed is not None
    assert packed.epoch > 4
    assert packed.evaluation == 15


def test_packs_fill_the_slots(plan: Plan) -> None:
    packs = [[job] for job in plan.jobs]
    times = {kind(packs[0]): Timing(1.0, 2.0, 0.0, 0.0, "finished runs", 9)}
    draws = np.random.default_rng(0)
    # Six packs of 12 s: on two slots three rounds, on four two.
    assert simulate(packs, times, 2, draws).wall.middle == pytest.approx(36 + START, rel=0.1)
    four = simulate(packs, times, 4, draws)
    assert four.wall.middle == pytest.approx(24 + START, rel=0.1)
    assert (four.busy.low, four.busy.high, four.unknown) == (pytest.approx(72), pytest.approx(72), 0)
    reached = {job.key: 10 for job in plan.jobs}
    assert simulate(packs, times, 2, draws, reached).busy.middle == pytest.approx(12)


def test_what_is_unknown_is_counted_and_not_made_up(plan: Plan) -> None:
    nothing = simulate([[job] for job in plan.jobs], {}, 2, np.random.default_rng(0))
    assert (nothing.wall.high, nothing.unknown) == (0, 6)


def test_doubt_widens_the_interval_and_equal_draws_give_equal_answers(plan: Plan) -> None:
    packs = [[job] for job in plan.jobs]

    def busy(doubt: float) -> tuple[float, float]:
        times = {kind(packs[0]): Timing(1.0, 2.0, 0.1, doubt, "finished runs", 9)}
        found = simulate(packs, times, 2, np.random.default_rng(3)).busy
        return found.low, found.high

    assert busy(0.3) == busy(0.3)
    narrow, wide = busy(0.05), busy(0.5)
    assert wide[0] < narrow[0] < 72 < narrow[1] < wide[1]


def test_a_calibration_comes_near_to_a_real_training(plan: Plan, tmp_path: Path) -> None:
    found = calibrate([plan.jobs[:1], plan.jobs[1:2]], "cpu", 1, tmp_path)
    assert list(found) == [kind(plan.jobs[:1])]
    (measured,) = found.values()
    trial = plan.jobs[0].trial.model_copy(update={"epochs": 2})
    (outcome,) = train([trial], cplearn.data.load("digits"))
    # Both on a machine that other processes use: the order of magnitude is what can be asserted.
    assert 0.2 < 2 * measured.epoch / outcome.metrics["time/train_s"] < 5
    assert 0.2 < measured.evaluation / outcome.metrics["time/evaluation_s"] < 5


def test_steps_are_multiplied_by_their_number() -> None:
    assert calibrated([0.1, 0.2, 0.3], 50, 7).seconds(2) == pytest.approx(27)
    assert calibrated([], 50, 7).seconds(0) == 7


def test_a_stored_run_is_as_large_as_its_files(plan: Plan, tmp_path: Path) -> None:
    job = plan.jobs[0]
    (outcome,) = train(
        [job.trial.model_copy(update={"epochs": 1})], cplearn.data.load("digits"), save_to=[tmp_path / "m"]
    )
    assert outcome.failure is None
    files = sum(path.stat().st_size for path in (tmp_path / "m").rglob("*") if path.is_file())
    rows = 22_500 + 1_400 * job.trial.epochs
    assert stored_bytes(job, plan.datasets[0]) - rows == pytest.approx(files, rel=0.25)


def test_a_model_that_cannot_exist_is_named(plan: Plan) -> None:
    backbone = plan.jobs[0].trial.backbone.model_copy(update={"width": 10**18})
    job = dataclasses.replace(plan.jobs[0], trial=plan.jobs[0].trial.model_copy(update={"backbone": backbone}))
    with pytest.raises(InputError, match=r"backbone\.width 1000000000000000000 is too large"):
        stored_bytes(job, plan.datasets[0])
