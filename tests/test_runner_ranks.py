"""Trials in several processes under real Ray; what each process computes is tested in tests/test_distributed.py."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
from typer.testing import CliRunner

from cplearn.errors import InputError
from runner.cli import app
from runner.execute import execute
from runner.faults import Kind, Policy
from runner.plan import SCHEMA, Job, make_plan
from runner.resources import Resources
from sweeps.spec import SweepError, read_sweep

SWEEP = """
sweep: tiny
settings:
  epochs: 2
  precision: float64
  train_images: 128
  test_images: 60
  method: {codes: 32, embedding_dim: 16}
  backbone: {name: resnet8-slim, width: 4}
  evaluation: {kmeans_restarts: 1}
axes: {method.beta: [0.1, 1]}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two nodes' worth of CPUs; logical ones, so that two processes fit on any machine."""
    ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


class Recorder:
    def __init__(self) -> None:
        self.logged: dict[tuple[str, int], dict[str, float]] = {}
        self.final: dict[str, dict[str, float]] = {}
        self.reasons: dict[str, str] = {}

    def planned(self, packs: Any) -> None:
        pass

    def started(self, job: Job) -> None:
        pass

    def epoch(self, job: Job, epoch: int, metrics: Mapping[str, float]) -> None:
        self.logged[job.label, epoch] = {name: v for name, v in metrics.items() if "second" not in name}

    def finished(self, job: Job, metrics: Mapping[str, float], files: Any, hardware: Any) -> None:
        self.final[job.label] = {name: v for name, v in metrics.items() if not name.startswith("time/")}

    def resumed(self, job: Job, history: Any) -> None:
        pass

    def noted(self, job: Job, text: str) -> None:
        pass

    def failed(self, job: Job, reason: str, kind: Kind) -> None:
        self.reasons[job.label] = reason


def jobs(folder: Path, text: str = SWEEP) -> list[Job]:
    (folder / "tiny.yaml").write_text(text)
    return make_plan(read_sweep(folder / "tiny.yaml", SCHEMA), folder / "data").jobs


def test_a_sweep_in_two_processes_a_trial_gives_the_numbers_of_one(cluster: None, tmp_path: Path) -> None:
    """Both trials run in the same workers, one after the other."""
    found = []
    for ranks in (1, 2):
        recorder = Recorder()
        execute(jobs(tmp_path), [recorder], Resources(1, 0, ranks))
        assert not recorder.reasons
        found.append(recorder)
    one, two = found
    assert one.logged.keys() == two.logged.keys() == {(b, e) for b in ("beta=0.1", "beta=1") for e in (1, 2)}
    for key, metrics in one.logged.items():
        assert two.logged[key] == pytest.approx(metrics, rel=1e-7)
    for label, metrics in one.final.items():
        assert two.final[label] == pytest.approx(metrics, rel=1e-5)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the process in /proc, which is not here")
def test_a_process_that_dies_fails_the_trial_and_leaves_nothing_behind(cluster: None, tmp_path: Path) -> None:
    recorder = Recorder()
    killed: list[int] = []

    def kill_the_other(job: Job, epoch: int, metrics: Any) -> None:
        for folder in [] if killed else Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (folder / "cmdline").read_bytes().startswith(b"ray::_Rank"):
                    killed.append(int(folder.name))
                    os.kill(killed[0], signal.SIGKILL)

    recorder.epoch = kill_the_other  # type: ignore[method-assign]
    text = SWEEP.replace("epochs: 2", "epochs: 500").replace("[0.1, 1]", "[1]")
    execute(jobs(tmp_path, text), [recorder], Resources(1, 0, 2), policy=Policy(retries=0))
    assert len(killed) == 1
    assert recorder.reasons.keys() == {"beta=1"}
    end = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < end:
        time.sleep(0.1)  # Ray counts what is free with some delay.
    assert ray.available_resources()["CPU"] == 2


def test_a_batch_that_cannot_be_split_is_refused_before_anything_starts(cluster: None, tmp_path: Path) -> None:
    text = SWEEP.replace("epochs: 2", "epochs: 2\n  batch_size: 15")
    with pytest.raises(InputError, match="batch_size 15 cannot be split among 2 devices"):
        execute(jobs(tmp_path, text), [Recorder()], Resources(1, 0, 2))


def test_resources_count_processes_and_slots() -> None:
    nodes = [{"CPU": 16, "GPU": 8}, {"CPU": 16, "GPU": 8}, {"CPU": 64}]
    assert Resources(1, 8).processes == 8
    assert Resources(2, 8).slots(nodes) == 2
    assert Resources(4, 8).slots(nodes) == 1  # four processes fit on each node by its CPUs
    assert Resources(1, 0.5).slots(nodes) == 32
    assert Resources(1, 0, 2).slots(nodes) == 48
    assert Resources(1, None, 2).settle(any_gpu=True) == Resources(1, 2, 2)
    assert Resources(1, None).settle(any_gpu=False) == Resources(1, 0)
    with pytest.raises(InputError, match="a trial with 4 GPUs has a process for each, not 2"):
        Resources(1, 4, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Resources().cpus = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resources: {gpu: 8}\n", "unknown key 'resources.gpu'"),
        ("resources: {gpus: -1}\n", "resources.gpus: .*greater than or equal to 0"),
        ("resources: 8\n", "resources"),
    ],
)
def test_a_bad_request_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP + text)
    with pytest.raises(SweepError, match=message):
        read_sweep(tmp_path / "tiny.yaml", SCHEMA)


def test_the_command_line_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SWEEP + "resources: {gpus: 64}\n")
    refused = CliRunner().invoke(app, ["plan", "tiny.yaml"])
    assert refused.exit_code == 2
    assert re.search(r"a trial asks for 64 CPUs and 64 GPUs in 64 processes", " ".join(refused.output.split()))
    assert CliRunner().invoke(app, ["plan", "tiny.yaml", "--gpus-per-trial", "0"]).exit_code == 0
