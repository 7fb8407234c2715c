"""Budgets: how they are written, and which trials come first."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cplearn.errors import InputError
from runner.planning.budget import Deadline, order, parse
from runner.planning.plan import SCHEMA, Job, make_plan
from sweeps.spec import read_sweep


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("4h", 14400), ("1h30m", 5400), ("2d", 172_800), ("45s", 45), ("0.5h", 1800)]
)
def test_a_budget_is_read(text: str, seconds: float) -> None:
    assert parse(text) == seconds


@pytest.mark.parametrize("text", ["", "4", "h", "30m1h", "-1h", "0m", "nan", "1e3h", "4 h", "1000000000d"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write a time such as 90m, 4h, 1h30m or 2d"):
        parse(text)


def jobs(tmp_path: Path, axes: str) -> tuple[list[Job], list[int], dict[str, list[object]]]:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"sweep: tiny\nsettings: {{epochs: 1}}\naxes: {axes}\nseeds: 2\nbaselines: {{random: {{method: untrained}}}}\n"
    )
    sweep = read_sweep(path, SCHEMA)
    return make_plan(sweep).jobs, sweep.seeds, sweep.axes  # type: ignore[return-value]


def test_one_seed_everywhere_then_baselines_then_from_coarse_to_fine(tmp_path: Path) -> None:
    planned, seeds, axes = jobs(tmp_path, "{method.beta: [1, 2, 3, 4, 5, 6, 7, 8, 9]}")
    placed = order(planned, seeds, axes, {})
    assert [job.trial.seed for job in placed] == [0] * 10 + [1] * 10
    assert placed[0].role == placed[10].role == "baseline"
    assert [job.point["method.beta"] for job in placed[1:10]] == [1, 9, 5, 3, 7, 2, 4, 6, 8]
    assert {job.key for job in placed} == {job.key for job in planned}


def test_a_grid_of_two_axes_grows_by_whole_grids(tmp_path: Path) -> None:
    planned, seeds, axes = jobs(tmp_path, "{method.beta: [1, 2, 3], optimizer.lr: [0.1, 0.2, 0.3]}")
    first = [tuple(job.point.values()) for job in order(planned, seeds, axes, {}) if job.role == "trial"][:9]
    assert set(first[:4]) == {(1, 0.1), (1, 0.3), (3, 0.1), (3, 0.3)}


def test_within_a_level_the_cheapest_come_first(tmp_path: Path) -> None:
    planned, seeds, axes = jobs(tmp_path, "{method.codes: [512, 64, 128, 32]}")
    seconds = {job.key: float(getattr(job.trial.method, "codes", 0)) for job in planned}
    placed = order(planned, seeds, axes, seconds)
    assert [job.point["method.codes"] for job in placed[1:5]] == [32, 512, 64, 128]


def test_a_deadline_interrupts_its_block_once() -> None:
    deadline = Deadline("0.2s")
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), deadline:
        time.sleep(10)
    assert time.monotonic() - start < 5
    assert deadline.passed
    assert not deadline.allows(None)
    unhurried = Deadline("1h")
    with unhurried:
        pass
    time.sleep(0.01)
    assert not unhurried.passed
    assert unhurried.allows(3_000)
    assert not unhurried.allows(4_000)


def test_without_a_budget_nothing_is_ever_late() -> None:
    with Deadline(None) as deadline:
        assert deadline.allows(1e12)
    assert deadline.seconds is None
