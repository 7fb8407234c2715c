"""What is left of a sweep, by a clock that the test holds."""

from __future__ import annotations

import pytest

from runner.planning.plan import Job, Plan
from runner.timing.progress_estimate import ProgressEstimate
from runner.timing.timings import Timing, TimingKey, timing_key


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def jobs(plan: Plan) -> list[Job]:
    """Four trials of nine epochs of one kind."""
    return plan.jobs[:4]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def ten_seconds(jobs: list[Job]) -> dict[TimingKey, Timing]:
    return {timing_key(jobs[0]): Timing(1.0, 1.0, 0.9, 1.1, "finished runs", 5)}


def test_without_a_timing_the_pace_alone_says_what_is_left(jobs: list[Job], clock: Clock) -> None:
    estimate = ProgressEstimate({}, 2, clock)
    estimate.planned(jobs)
    assert estimate.remaining() is None
    assert estimate.ends_in(jobs[0]) is None
    estimate.started(jobs[0])
    estimate.started(jobs[1])
    clock.now = 5.0
    estimate.epoch(jobs[0], 5)
    estimate.epoch(jobs[1], 5)
    # Half of ten units took 5 s; each slot has five units and another trial before it.
    assert estimate.remaining() == pytest.approx(15)
    clock.now = 7.0
    assert estimate.remaining() == pytest.approx(13)


def test_a_timing_counts_before_anything_has_run_and_gives_way_to_what_is_seen(jobs: list[Job], clock: Clock) -> None:
    estimate = ProgressEstimate({}, 2, clock)
    estimate.planned(jobs)
    estimate.learn(ten_seconds(jobs))
    assert estimate.remaining() == pytest.approx(20)
    estimate.started(jobs[0])
    clock.now = 9.0
    estimate.epoch(jobs[0], 4)  # 4 s of work took 9: factor (9 + 10) / (4 + 10)
    assert estimate.ends_in(jobs[1]) == pytest.approx(10 * 19 / 14)
    clock.now = 30.0
    estimate.ended(jobs[0])
    # One has ended: what it took counts. Three of 30 s are left for two slots.
    assert estimate.remaining() == pytest.approx(60)


def test_a_failed_trial_says_nothing_about_the_others(jobs: list[Job], clock: Clock) -> None:
    estimate = ProgressEstimate(ten_seconds(jobs), 1, clock)
    estimate.planned(jobs)
    estimate.started(jobs[0])
    clock.now = 0.5
    estimate.ended(jobs[0], failed=True)
    assert estimate.remaining() == pytest.approx(30)


def test_the_next_trial_waits_for_a_slot(jobs: list[Job], clock: Clock) -> None:
    estimate = ProgressEstimate(ten_seconds(jobs), 1, clock)
    estimate.planned(jobs)
    assert estimate.ends_in(jobs[1]) == pytest.approx(10)
    estimate.started(jobs[0])
    clock.now = 4.0
    estimate.epoch(jobs[0], 4)
    assert estimate.ends_in(jobs[1]) == pytest.approx(6 + 10)


def test_what_an_earlier_run_has_trained_is_not_expected_again(jobs: list[Job], clock: Clock) -> None:
    estimate = ProgressEstimate(ten_seconds(jobs), 1, clock)
    estimate.planned(jobs[:2])
    estimate.started(jobs[0])
    estimate.resumed(jobs[0], 6)
    assert estimate.remaining() == pytest.approx(4 + 10)
    clock.now = 2.0
    estimate.epoch(jobs[0], 8)
    assert estimate.remaining() == pytest.approx(2 + 10)
    # Its worker is lost: it starts again from its checkpoint.
    estimate.planned(jobs[:1])
    assert estimate.remaining() == pytest.approx(20)


def test_trials_that_are_not_planned_yet_take_as_long_as_others(jobs: list[Job], clock: Clock) -> None:
    estimate = ProgressEstimate(ten_seconds(jobs), 1, clock)
    assert estimate.remaining(3) is None
    estimate.planned(jobs[:2])
    assert estimate.remaining(2) == pytest.approx(20)
    assert estimate.remaining(5) == pytest.approx(50)
    for job in jobs[:2]:
        estimate.started(job)
        estimate.epoch(job, 9)
        clock.now += 10.0
        estimate.ended(job)
    assert estimate.remaining() == 0
    assert estimate.remaining(3) == pytest.approx(30)
