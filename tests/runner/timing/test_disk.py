"""What a finished run leaves on disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import cplearn.data
from cplearn.config.groups import BackboneSettings
from cplearn.errors import InputError
from cplearn.training import train
from runner.planning.plan import Plan
from runner.timing.forecast import run_bytes


def test_a_run_is_as_large_as_its_files(plan: Plan, tmp_path: Path) -> None:
    job = plan.jobs[0]
    trial = job.trial.model_copy(update={"epochs": 1})
    outcome = train(trial, cplearn.data.load("digits"), save_to=tmp_path / "m")
    assert outcome.failure is None
    files = sum(path.stat().st_size for path in (tmp_path / "m").rglob("*") if path.is_file())
    rows = 22_500 + 3_000 * job.trial.epochs
    assert run_bytes(job, plan.datasets[0], None) - rows == pytest.approx(files, rel=0.25)


def test_a_model_that_cannot_exist_is_named(plan: Plan) -> None:
    use, job = plan.datasets[0], plan.jobs[0]
    with pytest.raises(InputError, match=r"the model of digits .* alone takes .* kB, this machine has 10 bytes"):
        run_bytes(job, use, memory=10)
    backbone = job.trial.backbone.model_copy(update={"width": 10**18})
    large = dataclasses.replace(job, trial=job.trial.model_copy(update={"backbone": backbone}))
    with pytest.raises(InputError, match=r"backbone\.width 1000000000000000000 is too large"):
        run_bytes(large, use, None)


def test_a_timm_model_is_laid_out_without_its_weights(plan: Plan) -> None:
    backbone = BackboneSettings.model_validate({"name": "timm", "model": "resnet18"})
    job = dataclasses.replace(plan.jobs[0], trial=plan.jobs[0].trial.model_copy(update={"backbone": backbone}))
    # 11.2 million weights in float32, and what lies beside them.
    assert 44e6 < run_bytes(job, plan.datasets[0], None) < 47e6
