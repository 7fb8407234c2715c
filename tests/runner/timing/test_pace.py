"""What is left of a sweep, by a clock that the test holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.planning.plan import SCHEMA, Job, make_plan
from runner.timing.estimate import Timing, kind
from runner.timing.pace import Pace, _Sums
from sweeps.spec import read_sweep


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    """Four trials of nine epochs of one kind."""
    (tmp_path / "tiny.yaml").write_text("sweep: tiny\nsettings: {epochs: 9}\naxes: {method.beta: [1, 2, 3, 4]}\n")
    return make_plan(read_sweep(tmp_path / "tiny.yaml", SCHEMA)).jobs


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_pace_alone_tells_what_is_left(jobs: list[Job]) -> None:
    clock = Clock()
    pace = Pace({}, 2, clock)
    pace.planned([[job] for job in jobs])
    assert pace.remaining() is None
    assert pace.expected(jobs[:1]) is None
    pace.started(jobs[0])
    pace.started(jobs[1])
    clock.now = 5.0
    pace.epoch(jobs[0], 5)
    pace.epoch(jobs[1], 5)
    # Half of ten units took 5 s; each slot has five units and another trial before it.
    assert pace.remaining() == pytest.approx(15)
    clock.now = 7.0
    assert pace.remaining() == pytest.approx(13)


def test_an_estimate_counts_before_anything_has_run_and_gives_way_to_what_is_seen(jobs: list[Job]) -> None:
    clock = Clock()
    packs = [[job] for job in jobs]
    pace = Pace({kind(packs[0]): Timing(1.0, 1.0, 0.1, 0.1, "finished runs", 5)}, 2, clock)
    pace.planned(packs)
    assert pace.remaining() == pytest.approx(20)
    pace.started(jobs[0])
    clock.now = 9.0
    pace.epoch(jobs[0], 4)  # 4 s of work took 9: factor (9 + 10) / (4 + 10)
    assert pace.expected(packs[1]) == pytest.approx(10 * 19 / 14)
    clock.now = 30.0
    pace.ended(jobs[0])
    # One has ended: what it took counts. Three of 30 s are left for two slots.
    assert pace.remaining() == pytest.approx(60)


def test_members_of_a_pack_take_their_time_together(jobs: list[Job]) -> None:
    clock = Clock()
    pace = Pace({}, 1, clock)
    pace.planned([jobs[:2], jobs[2:]])
    for job in jobs[:2]:
        pace.started(job)
    clock.now = 20.0
    for job in jobs[:2]:
        pace.epoch(job, 9)
        pace.ended(job)
    assert pace.remaining() == pytest.approx(20)


def test_a_failed_trial_says_nothing_about_the_others(jobs: list[Job]) -> None:
    clock = Clock()
    packs = [[job] for job in jobs]
    pace = Pace({kind(packs[0]): Timing(1.0, 1.0, 0.1, 0.1, "finished runs", 5)}, 1, clock)
    pace.planned(packs)
    pace.started(jobs[0])
    clock.now = 0.5
    pace.ended(jobs[0], failed=True)
    assert pace.remaining() == pytest.approx(30)


def test_the_next_pack_waits_for_a_slot(jobs: list[Job]) -> None:
    clock = Clock()
    packs = [[job] for job in jobs]
    pace = Pace({kind(packs[0]): Timing(1.0, 1.0, 0.1, 0.1, "finished runs", 5)}, 1, clock)
    pace.planned(packs)
    assert pace.ends_in(packs[1]) == pytest.approx(10)
    pace.started(jobs[0])
    clock.now = 4.0
    pace.epoch(jobs[0], 4)
    assert pace.ends_in(packs[1]) == pytest.approx(6 + 10)


def test_what_is_left_is_told_from_sums_that_follow_every_event(jobs: list[Job]) -> None:
    clock = Clock()
    packs = [[job] for job in jobs]
    pace = Pace({kind(packs[0]): Timing(1.0, 1.0, 0.1, 0.1, "finished runs", 5)}, 2, clock)
    pace.planned(packs)
    pace.started(jobs[0])
    pace.resumed(jobs[0], 3)
    pace.started(jobs[1])
    for now, epoch in ((1.5, 4), (3.7, 6), (9.1, 2), (11.3, 5)):  # as after a lost worker
        clock.now = now
        pace.epoch(jobs[0], epoch)
        pace.epoch(jobs[1], epoch)
    pace.ended(jobs[1], failed=True)
    pace.started(jobs[2])
    clock.now = 20.0
    pace.ended(jobs[2])
    anew = _Sums()
    for state in pace.packs:
        anew.add(state)
    assert vars(pace.sums) == pytest.approx(vars(anew))
    assert anew.moved == 3
