"""What is left of a sweep, by a clock that the test holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runner.planning.plan import Job, Plan
from runner.planning.quantities import Interval
from runner.timing.forecast import START
from runner.timing.progress_estimate import ProgressEstimate
from runner.timing.timings import Timing, TimingKey, TimingSource, timing_key


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


def ten_seconds(jobs: list[Job], source: TimingSource = "timed steps") -> dict[TimingKey, Timing]:
    return {timing_key(jobs[0]): Timing(1.0, 1.0, 1 / 1.5, 1.5, source, 1)}


def train(estimate: ProgressEstimate, clock: Clock, job: Job, epochs: int, seconds: float) -> None:
    """Let a trial train up to an epoch, with so many seconds for each."""
    for epoch in range(estimate.states[job.key].trained + 1, epochs + 1):
        clock.now += seconds
        estimate.epoch(job, epoch)


def middle(interval: Interval | None) -> float:
    assert interval is not None
    assert interval.low <= interval.middle <= interval.high
    return interval.middle


def test_without_a_timing_the_epochs_alone_say_what_is_left(jobs: list[Job], clock: Clock) -> None:
    estimate = ProgressEstimate({}, 1, clock)
    estimate.planned(jobs)
    assert estimate.remaining() is None
    assert estimate.ends_in(jobs[0]) is None
    estimate.started(jobs[0])
    train(estimate, clock, jobs[0], 1, 10.0)
    assert middle(estimate.remaining()) == pytest.approx(10 * (9 + 3 * 10))
    # The first epoch of a trial loads its data, and counts until another was seen.
    train(estimate, clock, jobs[0], 5, 2.0)
    # Four epochs and an evaluation are left of it, and ten of the same length of each of the others.
    assert middle(estimate.remaining()) == pytest.approx(2 * (5 + 3 * 10))
    clock.now += 3.0
    assert middle(estimate.remaining()) == pytest.approx(2 * (5 + 3 * 10) - 3)


def test_workers_that_start_are_waited_for_once(jobs: list[Job], clock: Clock) -> None:
    estimate = ProgressEstimate(ten_seconds(jobs), 2, clock)
    estimate.planned(jobs)
    assert middle(estimate.remaining()) == pytest.approx(START + 20)
    clock.now = 3.0
    assert middle(estimate.remaining()) == pytest.approx(START + 20 - 3)
    for job in jobs[:2]:
        estimate.started(job)
    assert middle(estimate.remaining()) == pytest.approx(20)


def test_epochs_and_evaluations_that_were_seen_count_and_narrow_the_range(jobs: list[Job], clock: Clock) -> None:
    estimate = ProgressEstimate(ten_seconds(jobs), 1, clock)
    estimate.planned(jobs)
    estimate.started(jobs[0])
    first = estimate.remaining()
    assert first is not None
    assert (first.low, first.middle, first.high) == pytest.approx((40 / 1.5, 40, 60))
    train(estimate, clock, jobs[0], 9, 2.0)
    clock.now += 5.0
    estimate.ended(jobs[0])
    # Three trials of nine epochs of 2 s and an evaluation of 5 s.
    left = estimate.remaining()
    assert left is not None
    assert left.middle == pytest.approx(3 * (9 * 2 + 5))
    assert left.high / left.middle < first.high / first.middle
    assert estimate.ends_in(jobs[1]) == pytest.approx(9 * 2 + 5)


def test_finished_runs_count_as_one_more_epoch(jobs: list[Job], clock: Clock) -> None:
    estimate = ProgressEstimate(ten_seconds(jobs, "finished runs"), 1, clock)
    estimate.planned(jobs)
    estimate.started(jobs[0])
    train(estimate, clock, jobs[0], 1, 8.0)
    # Seen: one epoch of 8 s. Expected: 1 s at the pace (1 + 8) / (1 + 1).
    epoch, evaluation = (8 + 4.5) / 2, 4.5
    assert estimate.ends_in(jobs[1]) == pytest.approx((8 + 9) * epoch + 2 * evaluation)


def test_a_kind_that_was_not_seen_is_scaled_by_the_pace_of_the_others(jobs: list[Job], clock: Clock) -> None:
    wide = replace(jobs[1], key="wide", trial=jobs[1].trial.model_copy(update={"batch_size": 128}))
    timings = ten_seconds(jobs) | {timing_key(wide): Timing(10.0, 10.0, 1 / 1.5, 1.5, "timed steps", 1)}
    estimate = ProgressEstimate(timings, 1, clock)
    estimate.planned([jobs[0], wide])
    estimate.started(jobs[0])
    train(estimate, clock, jobs[0], 9, 2.0)
    estimate.ended(jobs[0], failed=True)
    # Eight epochs of 1 s took 16 s, and what was said of an epoch, 5.5 s in the mean, counts once more.
    pace = (16 + 5.5) / (8 + 5.5)
    assert middle(estimate.remaining()) == pytest.approx(100 * pace)


def test_what_takes_longer_than_expected_is_not_expected_to_be_shorter_elsewhere(jobs: list[Job], clock: Clock) -> None:
    estimate = ProgressEstimate(ten_seconds(jobs), 1, clock)
    estimate.planned(jobs[:2])
    estimate.started(jobs[0])
    train(estimate, clock, jobs[0], 9, 1.0)
    clock.now += 30.0
    assert middle(estimate.remaining()) == pytest.approx(9 + 30), "its evaluation has lasted 30 s so far"


def test_a_failed_trial_says_nothing_about_evaluations(jobs: list[Job], clock: Clock) -> None:
    estimate = ProgressEstimate(ten_seconds(jobs), 1, clock)
    estimate.planned(jobs)
    estimate.started(jobs[0])
    clock.now = 0.5
    estimate.ended(jobs[0], failed=True)
    assert middle(estimate.remaining()) == pytest.approx(30)


def test_the_next_trial_waits_for_a_slot(jobs: list[Job], clock: Clock) -> None:
    estimate = ProgressEstimate(ten_seconds(jobs), 1, clock)
    estimate.planned(jobs)
    assert estimate.ends_in(jobs[1]) == pytest.approx(10)
    estimate.started(jobs[0])
    train(estimate, clock, jobs[0], 4, 1.0)
    assert estimate.ends_in(jobs[1]) == pytest.approx(6 + 10)


def test_what_an_earlier_run_has_trained_is_not_expected_again(jobs: list[Job], clock: Clock) -> None:
    estimate = ProgressEstimate(ten_seconds(jobs), 1, clock)
    estimate.planned(jobs[:2])
    estimate.started(jobs[0])
    estimate.resumed(jobs[0], 6)
    assert middle(estimate.remaining()) == pytest.approx(4 + 10)
    clock.now += 2.0
    estimate.epoch(jobs[0], 8)
    assert middle(estimate.remaining()) == pytest.approx(2 + 10)
    # Its worker is lost: it starts again from its checkpoint.
    estimate.planned(jobs[:1])
    assert middle(estimate.remaining()) == pytest.approx(START + 20)


def test_trials_that_are_not_planned_yet_take_as_long_as_others(jobs: list[Job], clock: Clock) -> None:
    estimate = ProgressEstimate(ten_seconds(jobs), 1, clock)
    assert estimate.remaining(3) is None
    estimate.planned(jobs[:2])
    clock.now = START
    assert middle(estimate.remaining(2)) == pytest.approx(20)
    assert middle(estimate.remaining(5)) == pytest.approx(50)
    for job in jobs[:2]:
        estimate.started(job)
        train(estimate, clock, job, 9, 1.0)
        clock.now += 1.0
        estimate.ended(job)
    assert middle(estimate.remaining()) == 0
    assert middle(estimate.remaining(3)) == pytest.approx(30)
