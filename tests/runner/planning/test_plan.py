"""From a sweep to jobs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cplearn.errors import InputError
from runner.planning.plan import SCHEMA, Plan, make_plan
from sweeps.spec import read_sweep

TEXT = """
sweep: tiny
settings: {epochs: 1, method: {codes: 16}}
axes: {method.beta: [0.1, 1, 10]}
seeds: 2
baselines: {random backbone: {method: untrained}}
"""


def plan(tmp_path: Path, **overrides: object) -> Plan:
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    return make_plan(read_sweep(path, SCHEMA, overrides))


def test_jobs_carry_key_data_and_place(tmp_path: Path) -> None:
    planned = plan(tmp_path)
    assert [job.name for job in planned.jobs[:2]] == ["random backbone seed=0", "beta=0.1 seed=0"]
    assert len({job.key for job in planned.jobs}) == len(planned.jobs) == 8
    assert {job.dataset for job in planned.jobs} == {"digits"}
    assert planned.datasets[0].fingerprint == planned.jobs[0].fingerprint


def test_the_manifest_is_plain_json_and_complete(tmp_path: Path) -> None:
    planned = plan(tmp_path)
    manifest = json.loads(json.dumps(planned.manifest().to_dict()))
    assert manifest["axes"] == {"method.beta": [0.1, 1, 10]}
    assert [trial["key"] for trial in manifest["trials"]] == [job.key for job in planned.jobs]
    assert manifest["trials"][1]["point"] == {"method.beta": 0.1}


def test_an_enlarged_grid_is_the_same_sweep_with_the_same_keys(tmp_path: Path) -> None:
    small, large = plan(tmp_path), plan(tmp_path, **{"method.beta": [0.1, 1, 10, 20]})
    assert small.key == large.key
    assert {job.key for job in small.jobs} < {job.key for job in large.jobs}
    assert plan(tmp_path, epochs=2).key != small.key


def test_what_cannot_run_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_size 5000 is larger than the 1437 training images"):
        plan(tmp_path, batch_size=5000)
    with pytest.raises(InputError):
        plan(tmp_path, dataset=f"folder:{tmp_path}/nothing")
