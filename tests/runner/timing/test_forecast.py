"""How long a sweep takes on so many slots, and what a few timed steps add to that."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from runner.machine.resources import Resources
from runner.planning.plan import Plan
from runner.timing.forecast import START, Forecast, Machine, forecast
from runner.timing.timings import Timing, timing_key

HARDWARE = {"device": "cpu", "device_name": "Abacus 1", "threads": "1", "ranks": "1"}


def expected(plan: Plan, slots: int = 2, memory: float | None = 1e12, **options: Any) -> Forecast:
    return forecast(plan, plan.jobs, Machine(Resources(1, 0), slots, HARDWARE, memory), lambda *_: [], **options)


def twelve_seconds(plan: Plan) -> dict[str, Timing]:
    return {timing_key(plan.jobs[0]): Timing(1.0, 3.0, 0.5, 2.0, "finished runs", 9)}


def with_timings(plan: Plan, slots: int, **options: Any) -> Forecast:
    from dataclasses import replace

    return replace(expected(plan, slots, **options), timings=twelve_seconds(plan))  # type: ignore[arg-type]


def test_trials_fill_the_slots(plan: Plan) -> None:
    # Six trials of 12 s: on two slots three rounds, on four two.
    assert with_timings(plan, 2).wall.middle == pytest.approx(36 + START)
    four = with_timings(plan, 4)
    assert (four.wall.low, four.wall.middle, four.wall.high) == pytest.approx((12 + START, 24 + START, 48 + START))
    assert (four.busy.low, four.busy.middle, four.busy.high) == pytest.approx((36, 72, 144))
    reached = {job.key: 9 for job in plan.jobs}
    assert with_timings(plan, 2, reached=reached).busy.middle == pytest.approx(6 * 3)
    assert str(four).startswith("Expected: 32 s (20 s to 56 s) on 4 slots, about ")


def test_a_budget_holds_what_ends_in_time(plan: Plan) -> None:
    assert len(with_timings(plan, 2).within(START + 25)) == 4


def test_what_is_unknown_is_counted_and_explained(plan: Plan) -> None:
    nothing = expected(plan, memory=None)
    assert (nothing.wall.middle, nothing.busy.high, nothing.unknown) == (0, 0, 6)
    assert "Expected: unknown time (no finished run is like it, and the nodes of a cluster" in str(nothing)
    assert nothing.start_calibration(None, lambda _: None) is None


def test_a_few_steps_are_timed_in_the_background(plan: Plan, tmp_path: Path) -> None:
    answers: list[Forecast] = []
    called = threading.Event()

    def done(answer: Forecast) -> None:
        answers.append(answer)
        called.set()

    calibration = expected(plan).start_calibration(tmp_path, done)
    assert calibration is not None
    assert called.wait(300)
    (timing,) = answers[0].timings.values()
    assert (timing.source, answers[0].reason, answers[0].unknown) == ("timed steps", "", 0)
    assert 0 < timing.epoch < 60
    assert 0 < timing.evaluation < 60


def test_a_stopped_calibration_says_nothing(plan: Plan, tmp_path: Path) -> None:
    answers: list[Forecast] = []
    calibration = expected(plan).start_calibration(tmp_path, answers.append)
    assert calibration is not None
    calibration.stop()
    calibration.join()
    assert answers == []


def test_where_steps_cannot_be_timed_the_reason_is_said(plan: Plan) -> None:
    machine = Machine(Resources(1, 0), 1, HARDWARE | {"threads": "none"}, 1e12)
    answer = forecast(plan, plan.jobs, machine, lambda *_: []).calibrated(None)
    assert answer.unknown == 6
    assert "unknown time (the process that times a few steps ended with status 1)" in str(answer)


@pytest.mark.parametrize(
    ("resources", "devices"),
    [(Resources(2, 0), ("CPU core", 2)), (Resources(2, 0, 3), ("CPU core", 6)), (Resources(2, 8), ("GPU", 8))],
)
def test_a_trial_occupies_what_all_of_its_processes_have(resources: Resources, devices: tuple[str, float]) -> None:
    assert Machine(resources, 1, HARDWARE).devices == devices
