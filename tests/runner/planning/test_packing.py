"""Which trials share a pack."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cplearn.config.trial import TrialSettings
from cplearn.errors import InputError
from cplearn.training import Footprint
from runner.planning.packing import BUSY, MEMORY_SHARE, describe, group, parse, widest
from runner.planning.plan import SCHEMA, Job, make_plan
from sweeps.spec import read_sweep

TEXT = """
sweep: tiny
settings: {epochs: 1, method: {codes: 16}}
axes: {method.beta: [0.1, 1, 10]}
seeds: 3
baselines: {random backbone: {method: untrained}}
"""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    """Nine trials of CPLearn and three baselines, seed by seed."""
    path = tmp_path_factory.mktemp("sweep") / "tiny.yaml"
    path.write_text(TEXT)
    return make_plan(read_sweep(path, SCHEMA)).jobs


@pytest.mark.parametrize(("width", "sizes"), [(1, [1] * 12), (4, [3, 3, 3, 3]), (5, [3, 4, 5]), (9, [3, 9])])
def test_a_width_is_the_largest_pack_and_parts_are_even(jobs: list[Job], width: int, sizes: list[int]) -> None:
    packs = group(jobs, width)
    assert sorted(map(len, packs)) == sizes
    assert sorted(job.key for pack in packs for job in pack) == sorted(job.key for job in jobs)
    for pack in packs:
        assert len({json.dumps(job.trial.pack_signature()) for job in pack}) == 1


def test_packs_start_in_the_order_of_their_first_jobs(jobs: list[Job]) -> None:
    assert [pack[0] for pack in group(jobs, 1)] == jobs
    firsts = [jobs.index(pack[0]) for pack in group(jobs, 2)]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize(("slots", "sizes"), [(1, [3, 9]), (2, [1, 2, 4, 5]), (20, [1] * 12)])
def test_auto_leaves_work_for_every_slot(jobs: list[Job], slots: int, sizes: list[int]) -> None:
    assert sorted(map(len, group(jobs, None, slots))) == sizes


def test_auto_keeps_within_memory_and_asks_once_for_each_kind(jobs: list[Job]) -> None:
    asked: list[Job] = []

    def fitting(job: Job) -> int:
        asked.append(job)
        return 4 if job.trial.method.trains else 100

    assert sorted(map(len, group(jobs, None, 1, fitting))) == [3, 3, 3, 3]
    assert len(asked) == 2
    # Where not even one fits, one is tried all the same: the measure is an estimate.
    assert sorted(map(len, group(jobs, None, 1, lambda job: 0))) == [1] * 12


def test_a_pack_fits_its_memory_and_on_a_cpu_saves_time() -> None:
    small, busy = Footprint(memory=10, operations=int(BUSY / 2)), Footprint(memory=10, operations=int(2 * BUSY))
    room = 75 / MEMORY_SHARE
    assert [widest(one, room, on_gpu=on_gpu) for one in (small, busy) for on_gpu in (False, True)] == [7, 7, 1, 7]
    # Not even one fits, whatever the steps are.
    assert [widest(one, 5, on_gpu=False) for one in (small, busy)] == [0, 0]


def test_a_packing_is_read_and_refused() -> None:
    assert [parse(text) for text in ("auto", "off", "7", 3)] == [None, 1, 7, 3]
    for text in ("0", "-1", "many", ""):
        with pytest.raises(InputError, match="packing must be auto, off or a number of trials"):
            parse(text)


def test_packs_are_described_in_a_line(jobs: list[Job]) -> None:
    assert describe(group(jobs, 1)) == ""
    assert describe(group(jobs, 9)) == "Trained together in packs: 1 of 9 and 1 of 3."
    assert describe(group(jobs[:4], 3)) == "Trained together in packs: 1 of 3 and 1 trial alone."


def test_models_of_timm_stay_alone_and_the_plan_says_so(jobs: list[Job]) -> None:
    backbone = {"name": "timm", "model": "vit_small_patch16_224"}
    alone = [replace(job, trial=TrialSettings.read({"backbone": backbone, "seed": job.trial.seed})) for job in jobs[:3]]

    def fitting(job: Job) -> int:
        assert job.trial.stackable, "asked for the memory of a pack that cannot be"
        return 100

    for packs in (group([*alone, *jobs[3:]], 9), group([*alone, *jobs[3:]], None, 1, fitting)):
        assert sorted(map(len, packs))[:3] == [1, 1, 1]
        assert sum(map(len, packs)) == len(jobs)
        assert describe(packs).endswith(". timm models cannot be stacked: 3 trials alone.")
    assert describe(group(alone[:1], 9)) == "timm models cannot be stacked: 1 trial alone."
