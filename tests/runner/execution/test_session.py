"""A Ray of the driver's own: what it is given, whom it answers, and what a fault of one of its processes does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from support import ROOT, below, processes, working

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at processes in /proc"),
]
SWEEP = """
sweep: tiny
settings:
  epochs: 1
  train_images: 100
  test_images: 50
  batch_size: 16
  backbone: {name: resnet8-slim, width: 4}
  method: {codes: 16, embedding_dim: 8}
  evaluation: {kmeans_restarts: 1}
axes: {method.beta: [0.1, 1]}
"""
KNOCK = """
import sys
from ray._raylet import GcsClient
print(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=20))
"""


class Sweep:
    """A sweep in a process of its own, in a folder whose modules have the names of this program's packages."""

    def __init__(self, folder: Path, text: str = SWEEP, *options: str, **environment: str) -> None:
        self.folder = folder
        (folder / "tiny.yaml").write_text(text)
        for name in ("runner", "cplearn", "sweeps", "reports"):
            (folder / f"{name}.py").write_text("raise ImportError('of the user')\n")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from cplearn_sweeps import main; main()", "sweep", "tiny.yaml", *options],
            cwd=folder,
            env={**inherited, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, condition: Callable[[], Any]) -> Any:
        """What the condition gives, once it gives something."""
        deadline = time.monotonic() + 200
        while not (found := condition()):
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.05)
        return found

    def ray(self, name: str) -> tuple[int, str]:
        """Process id and command line of one of Ray's processes, raylet or gcs_server."""

        def find() -> list[tuple[int, str]]:
            everyone = processes()
            lines = ((pid, everyone[pid][1]) for pid in below(self.process.pid) if pid in everyone)
            return [(pid, line) for pid, line in lines if line.split(" ")[0].endswith(f"/{name}")]

        return self.wait_for(find)[0]

    def end(self) -> tuple[int, str]:
        try:
            output, _ = self.process.communicate(timeout=300)
        finally:
            self.process.kill()
        return self.process.returncode, " ".join(output.split())

    def runs(self) -> list[Any]:
        client = MlflowClient(f"sqlite:///{self.folder}/mlflow.db")
        experiment = client.get_experiment_by_name("cplearn")
        return list(client.search_runs([experiment.experiment_id], "tags.`cplearn.kind` = 'trial'"))


def knock(address: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Ask a Ray something, as a process does that found its port."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = [sys.executable, "-c", KNOCK, address]
    return subprocess.run(words, env=inherited | environment, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.long
def test_a_sweep_in_a_narrow_and_unfriendly_place(tmp_path: Path) -> None:
    """One core, a home that cannot be written, a long TMPDIR, variables of other tools; and a stranger at the port."""
    long = tmp_path / "slurm_job_directory" / "firstname.lastname" / "tmp"
    long.mkdir(parents=True)
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        names = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_TRACKING_URI", "CPLEARN_DATA", "XDG_CACHE_HOME", "RAY_ADDRESS")
        sweep = Sweep(tmp_path, HOME="/proc", TMPDIR=str(long), **dict.fromkeys(names, ""))
    finally:
        os.sched_setaffinity(0, allowed)
    _, line = sweep.ray("raylet")
    address, scratch = (re.search(pattern, line) for pattern in (r"--gcs-address=(\S+)", r"--temp_dir=(\S+)/ray "))
    assert address, line
    assert scratch, line
    token = Path(scratch[1], "token")
    assert token.stat().st_mode & 0o777 == 0o600
    known = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    assert "session" in knock(address[1], **known).stdout
    for attempt in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        stranger = knock(address[1], **attempt)
        assert stranger.returncode
        assert re.search("token|nauthenticated", stranger.stderr), stranger.stderr
    code, output = sweep.end()
    assert code == 0, output
    assert "oken" not in output
    assert not Path(scratch[1]).exists()
    first, second = sorted((run.info for run in sweep.runs()), key=lambda info: info.start_time)
    assert first.end_time <= second.start_time, "two trials at once on one core"


@pytest.mark.long
def test_a_sweep_goes_on_after_faults_of_its_ray(tmp_path: Path) -> None:
    """Its raylet is stopped, which then neither answers nor dies; later its GCS is killed, for which the driver may
    happen to wait in a call that nothing can interrupt."""
    call = tmp_path, SWEEP.replace("epochs: 1", "epochs: 300"), "--checkpoint-every", "0"
    sweep = Sweep(*call)
    folder, ended = tmp_path / "checkpoints", {0}
    for name, number in (("raylet", signal.SIGSTOP), ("gcs_server", signal.SIGKILL)):
        sweep.wait_for(lambda: sweep.ray("raylet")[0] not in ended)
        before = set(folder.glob("*.ckpt"))
        sweep.wait_for(lambda before=before: len({path.name[:16] for path in {*folder.glob("*.ckpt")} - before}) == 2)
        started = below(sweep.process.pid)
        ended.add(sweep.ray("raylet")[0])
        process, _ = sweep.ray(name)
        os.kill(process, number)
        sweep.wait_for(lambda process=process: process not in processes())
    code, output = sweep.end()
    assert "Ray's raylet was stopped by a signal; Ray is started again" in output
    if code == 1:
        assert output.endswith("what waits for it cannot be ended alone; run the same command again"), output
        code, output = Sweep(*call).end()
        assert output.count("goes on after epoch") == 2
    else:
        assert "Ray's gcs_server has died; Ray is started again" in output
    assert code == 0, output
    assert [run.info.status for run in sweep.runs()] == ["FINISHED"] * 2
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for run in sweep.runs():
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
        assert sorted(steps) == list(range(1, 301))
    while started & working():
        time.sleep(0.1)
