"""Trials in several processes under real Ray; what each process computes is tested in tests/test_distributed.py."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from PIL import Image
from typer.testing import CliRunner

from cplearn import streams
from cplearn.data.image_files import Damaged
from cplearn.errors import InputError
from listeners import Recorder
from runner.cli import app
from runner.execution.contract import ExecutionOptions
from runner.execution.execute import execute
from runner.execution.ranks import PATIENCE, _readable
from runner.machine.resources import Resources, describe, hardware, local
from runner.planning.plan import SCHEMA, Job, make_plan
from sweeps.errors import UserError
from sweeps.spec import read_sweep

pytestmark = pytest.mark.timeout(900)  # Two processes a trial wait for each other where the cores are busy.
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


def jobs(folder: Path, text: str = SWEEP) -> list[Job]:
    (folder / "tiny.yaml").write_text(text)
    return make_plan(read_sweep(folder / "tiny.yaml", SCHEMA), folder / "data").jobs


@pytest.mark.long
def test_a_sweep_in_two_processes_a_trial_gives_the_numbers_of_one(cluster: None, tmp_path: Path) -> None:
    """Both trials run in the same workers, one after the other."""
    found = []
    for ranks in (1, 2):
        recorder = Recorder()
        execute(jobs(tmp_path), [recorder], ExecutionOptions(Resources(1, 0, ranks)))
        assert not recorder.reasons
        found.append(recorder)
    one, two = found
    assert one.logged.keys() == two.logged.keys() == {(b, e) for b in ("beta=0.1", "beta=1") for e in (1, 2)}
    for key, metrics in one.logged.items():
        assert two.logged[key] == pytest.approx(metrics, rel=1e-7)
    for label, metrics in one.final.items():
        assert two.final[label] == pytest.approx(metrics, rel=1e-5)


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def is_ours(process: int) -> bool:
    """Whether this test has started it; other sweeps on the machine are to live."""
    while process > 1:
        process = parent(process)
        if process == os.getpid():
            return True
    return False


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the process in /proc, which is not here")
def test_a_process_that_dies_is_a_lost_worker(cluster: None, tmp_path: Path) -> None:
    """So the trial is tried again, up to the limit; then it fails, and leaves nothing behind."""
    recorder = Recorder()
    killed: list[int] = []

    def kill_the_other(job: Job, epoch: int, metrics: Any) -> None:
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                process = int(folder.name)
                named = (folder / "cmdline").read_bytes().startswith(b"ray::_Rank")
                if named and process not in killed and is_ours(process):
                    killed.append(process)
                    os.kill(process, signal.SIGKILL)

    recorder.epoch = kill_the_other  # type: ignore[method-assign]
    text = SWEEP.replace("epochs: 2", "epochs: 2000").replace("[0.1, 1]", "[1]")
    execute(jobs(tmp_path, text), [recorder], ExecutionOptions(Resources(1, 0, 2), retries=1))
    assert len(killed) == 2
    (note,) = recorder.notes
    assert "the worker was lost" in note
    assert recorder.kinds == {"beta=1": "lost"}
    assert "a process of the trial was lost" in recorder.reasons["beta=1"]
    end = time.monotonic() + 30
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < end:
        time.sleep(0.1)  # Ray counts what is free with some delay.
    assert ray.available_resources()["CPU"] == 2


@pytest.mark.long
def test_what_another_process_raises_is_the_reason_and_nobody_waits_for_it(cluster: None, tmp_path: Path) -> None:
    """An image that only the second process reads, in the first step, cannot be read; the first is in that step too."""
    noise, images = np.random.default_rng(0), tmp_path / "images"
    for split, n in (("train", 16), ("test", 4)):
        for name in ("cat", "dog"):
            (images / split / name).mkdir(parents=True)
            for i in range(n):
                path = images / split / name / f"{i}.png"
                Image.fromarray(noise.integers(0, 256, (20, 26, 3), np.uint8)).save(path)
                os.utime(path, (1e9, 1e9))
    text = SWEEP.replace("[0.1, 1]", "[1]").replace("  train_images: 128\n  test_images: 60\n", "")
    text = text.replace(
        "epochs: 2", f"epochs: 2\n  dataset: 'folder:{images}'\n  image_size: 16\n  decode: on-demand\n  batch_size: 32"
    ).replace("settings:", "settings:\n  augment: {recipe: imagenet}")
    (job,) = jobs(tmp_path, text)
    order = torch.randperm(32, generator=streams.generator(streams.stream(job.trial), "order", 0))
    last = int(order[-1])  # in the second half of the only batch
    path = images / "train" / ("cat" if last < 16 else "dog") / sorted(f"{i}.png" for i in range(16))[last % 16]
    # At its old size and time, so that nothing is noticed before it is decoded.
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, (1e9, 1e9))
    recorder, start = Recorder(), time.monotonic()
    execute([job], [recorder], ExecutionOptions(Resources(1, 0, 2), str(tmp_path / "data")))
    assert recorder.kinds == {"beta=1": "exception"}
    assert "cannot be read as an image" in recorder.reasons["beta=1"]
    assert "_Rank.call" in recorder.reasons["beta=1"], "the second process has read it"
    assert time.monotonic() - start < PATIENCE.total_seconds() / 4


@pytest.mark.parametrize("command", ["plan", "sweep"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs: 2": "epochs: 2\n  batch_size: 15"}, "batch_size 15 cannot be split among 2 devices"),
    ],
)
def test_what_cannot_be_split_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, change: dict[str, str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = SWEEP + "resources: {ranks: 2, gpus: 0}\n"
    for old, new in change.items():
        text = text.replace(old, new)
    (tmp_path / "tiny.yaml").write_text(text)
    refused = CliRunner().invoke(app, [command, "tiny.yaml"])
    assert refused.exit_code == 2
    assert message in " ".join(refused.output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_the_tag_that_is_looked_for_is_the_one_that_runs_get() -> None:
    for ranks in (1, 2):
        tags = describe("cpu", Resources(1, 0, ranks).processes)
        assert hardware(Resources(1, 0, ranks), remote=True)["ranks"] == tags["ranks"] == str(ranks)


def test_an_error_that_cannot_be_pickled_is_told_by_its_kind_and_text() -> None:
    def fail() -> None:
        raise Damaged(Path("cat/8.png"), "its format is not known")

    with pytest.raises(RuntimeError, match=r"Damaged: cat/8\.png: cannot be read as an image \(its format"):
        _readable(fail)()


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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system knows no affinity")
def test_a_process_that_may_use_one_core_has_one_slot() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert local(Resources(1, 0))[1] == 1
    finally:
        os.sched_setaffinity(0, allowed)


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
    with pytest.raises(UserError, match=message):
        read_sweep(tmp_path / "tiny.yaml", SCHEMA)


def test_the_command_line_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SWEEP + "resources: {gpus: 64}\n")
    refused = CliRunner().invoke(app, ["plan", "tiny.yaml"])
    assert refused.exit_code == 2
    assert re.search(r"a trial asks for 64 CPUs and 64 GPUs in 64 processes", " ".join(refused.output.split()))
    assert CliRunner().invoke(app, ["plan", "tiny.yaml", "--gpus-per-trial", "0"]).exit_code == 0
