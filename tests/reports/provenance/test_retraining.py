"""Trials are drawn from the cells of written tables, trained again, and compared."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from cplearn import data, training
from reports import build
from reports.provenance.retraining import compare, draw
from runner.events import TrialResult
from runner.machine.resources import describe
from runner.planning.plan import SCHEMA, make_plan
from runner.tracking.tracker import Tracker
from support import run_cli, uri
from sweeps.errors import UserError
from sweeps.spec import read_sweep

SWEEP = """
sweep: tiny
settings:
  {epochs: 1, train_images: 200, test_images: 100, backbone: {name: resnet8-slim, width: 4}, method: {codes: 16}}
axes: {method.beta: [0.1, 1]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two trials that were trained here, and its report."""
    folder = tmp_path_factory.mktemp("retrain")
    (folder / "tiny.yaml").write_text(SWEEP)
    plan = make_plan(read_sweep(folder / "tiny.yaml", SCHEMA))
    tracker = Tracker(uri(folder), plan)
    for job in plan.jobs:
        outcome = training.train(job.trial, data.load(**job.trial.data_request()))
        tracker.started(job)
        tracker.finished(job, TrialResult(outcome.metrics, {}, describe("cpu")))
    tracker.close("FINISHED")
    build.build(uri(folder), "tiny", folder / "results")
    return folder


def test_a_trial_that_is_trained_again_is_equal_bit_for_bit(folder: Path) -> None:
    code, said = run_cli(folder, "verify", "results", "--retrain", "1")
    assert code == 0, said
    assert "metrics equal bit for bit, on the same kind of machine" in said
    assert "1 of 1 trials that were trained again agree" in said
    (written,) = (folder / "results" / "retrained").glob("*.json")
    assert json.loads(written.read_text())["agreement"]["bitwise"]


def test_each_trial_is_drawn_once(folder: Path) -> None:
    drawn = draw(folder / "results", 9, random.Random(0))
    assert len({trial.key for trial in drawn}) == len(drawn) == 2
    assert "probe/accuracy" in drawn[0].metrics
    assert len(draw(folder / "results", 1, random.Random(0))) == 1
    (folder / "nothing").mkdir()
    with pytest.raises(UserError, match=r"no table\.json"):
        draw(folder / "nothing", 1, random.Random(0))


def test_numbers_agree_bit_for_bit_or_within_the_tolerance() -> None:
    old = {"probe/accuracy": 0.9, "collapse/codes_used": 200.0, "collapse/entropy_10": 5.0, "time/wall_s": 1.0}
    equal = compare(old, {**old, "time/wall_s": 9.0}, ("probe/accuracy",))
    assert equal.holds(True, 0)
    assert equal.compared == 3
    near = compare(old, {**old, "collapse/codes_used": 203.0, "collapse/entropy_10": 9.0}, tuple(old)[:2])
    assert (near.metric, near.difference) == ("collapse/codes_used", pytest.approx(0.015))
    assert not near.holds(True, 0.02)
    assert near.holds(False, 0.02)
    assert not near.holds(False, 0.01)
    hidden = compare(old, {**old, "collapse/entropy_10": 5.5}, ("probe/accuracy",))
    assert (hidden.metric, hidden.difference) == ("collapse/entropy_10", pytest.approx(0.1)), "no shown one differs"
    assert compare({"probe/accuracy": math.nan}, {"probe/accuracy": math.nan}, ("probe/accuracy",)).bitwise
    lost = compare({"probe/accuracy": 0.9}, {"probe/accuracy": math.nan}, ("probe/accuracy",))
    assert not lost.holds(False, 0.02)
    with pytest.raises(UserError, match="no metric in common"):
        compare({"time/wall_s": 1.0}, {"time/wall_s": 1.0}, ())
