"""Faults, each for real; afterwards one plain re-run leaves one finished run a trial, with undisturbed numbers."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from ray._private.node import Node
from ray.cluster_utils import Cluster
from typer.testing import CliRunner

from cplearn.config.trial import TrialSettings
from listeners import Recorder
from runner.cli import app
from runner.events import normalise
from runner.execution.contract import ExecutionOptions
from runner.execution.execute import execute, start_ray, stop_ray
from runner.machine.resources import Resources
from runner.planning.plan import SCHEMA, Job, command, make_plan
from support import below, free_port, mlflow_server, processes, working
from sweeps.loading import parse_override
from sweeps.settings import nested
from sweeps.spec import read_sweep

SWEEP = """
sweep: tiny
settings:
  epochs: 40
  batch_size: 256
  method: {codes: 32, embedding_dim: 16}
  backbone: {name: resnet8-slim, width: 4}
  evaluation: {kmeans_restarts: 1}
axes: {method.beta: [0.1, 1]}
"""
pytestmark = pytest.mark.timeout(900)  # Ray takes its time where the cores are busy.
TIMED = ("time/", "train/images_per_second")
OPTIONS = ("--checkpoint-every", "0", "--gpus-per-trial", "0")


class Workplace:
    """A folder in which sweeps run: as processes of their own, as a user's shell would start them, or in this one.

    With an address they run on that cluster, else on a Ray of their own.
    """

    def __init__(self, folder: Path, text: str = SWEEP, uri: str | None = None, address: str | None = None) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "tiny.yaml").write_text(text)
        self.folder, self.uri, self.address = folder, uri or f"sqlite:///{folder / 'mlflow.db'}", address

    @property
    def environment(self) -> dict[str, str]:
        return {
            "MLFLOW_TRACKING_URI": self.uri,
            "CPLEARN_DATA": str(self.folder / "data"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            **({"RAY_ADDRESS": self.address} if self.address else {}),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A sweep in a process that can be killed."""
        inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        return subprocess.Popen(
            [sys.executable, "-m", "runner.cli", "sweep", "tiny.yaml", *OPTIONS, *arguments],
            cwd=self.folder,
            env=inherited | self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """Exit status and words of a sweep that was started."""
        try:
            output, _ = process.communicate(timeout=400)
        finally:
            process.kill()
        return process.returncode, " ".join(output.split())

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit status and words of a sweep in this process, which is faster, as nothing has to be imported."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            result = CliRunner().invoke(app, ["sweep", "tiny.yaml", *OPTIONS, *arguments], env=self.environment)
        finally:
            os.chdir(before)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, " ".join(result.output.split())

    def jobs(self) -> list[Job]:
        return make_plan(read_sweep(self.folder / "tiny.yaml", SCHEMA), self.folder / "data").jobs

    def runs(self) -> list[Any]:
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("cplearn")
        return list(client.search_runs([experiment.experiment_id]))

    def trials(self) -> list[Any]:
        return [run for run in self.runs() if run.data.tags["cplearn.kind"] == "trial"]

    def checkpoints(self) -> list[Path]:
        return sorted((self.folder / "checkpoints").glob("*.ckpt"))

    def reached(self, epoch: int) -> bool:
        """Whether a trial has left a checkpoint of this epoch or a later one."""
        return any(int(path.name.split(".")[1]) >= epoch for path in self.checkpoints())

    def wait_for(self, condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
        deadline = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < deadline
            assert process is None or process.poll() is None, process.communicate()[0]
            time.sleep(0.02)

    def numbers(self) -> dict[str, dict[str, list[tuple[int, float]]]]:
        """Every logged value of each finished trial, without times; asserts that all is there, and there once."""
        assert not [run.info.run_id for run in self.runs() if run.info.status == "RUNNING"]
        client = MlflowClient(self.uri)
        finished = [run for run in self.trials() if run.info.status == "FINISHED"]
        assert set(Counter(run.data.tags["cplearn.key"] for run in finished).values()) == {1}
        assert self.checkpoints() == []
        found: dict[str, dict[str, list[tuple[int, float]]]] = {}
        for run in finished:
            epochs = int(run.data.params["epochs"])
            values = found[run.data.tags["cplearn.label"]] = {}
            for name in run.data.metrics:
                history = [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
                expected = range(1, epochs + 1) if name.startswith("train/") else [epochs]
                assert [step for step, _ in sorted(history)] == list(expected), (name, history)
                if not name.startswith(TIMED):
                    values[name] = sorted(history)
            assert "time/wall_s" in run.data.metrics
            assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"model", "diagnostics.json"}
        return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without room for trials, and two nodes for one of them each, which may be killed; this process is
    connected to it."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for name in ("first", "second"):
        cluster.add_node(num_cpus=1, node_name=name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", cluster.address)
        start_ray(Path())
    yield cluster
    stop_ray()
    cluster.shutdown()


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The numbers of a sweep to which nothing happens."""
    place = Workplace(tmp_path_factory.mktemp("undisturbed"), address=cluster.address)
    code, output = place.run()
    assert code == 0, output
    numbers = place.numbers()
    assert numbers.keys() == {"beta=0.1", "beta=1"}
    assert len(numbers["beta=1"]) > 10
    assert {run.data.tags["cplearn.node"] for run in place.trials()} == {"first", "second"}
    return numbers


def workers(*nodes: Node) -> list[int]:
    """The processes in which nodes of a cluster train: other tests may run on this machine."""
    everyone = processes()
    own = set.union(*(below(node.all_processes["raylet"][0].process.pid) for node in nodes))
    # Tune wraps the class; the title has its name while a step runs, and ours between two steps.
    names = ("ray::TrialTrainable", "ray::ResourceTrainable")
    return sorted(pid for pid in own if everyone.get(pid, (0, ""))[1].startswith(names))


@pytest.mark.long
def test_killed_at_random_moments_a_sweep_ends_with_the_same_numbers(
    cluster: Cluster, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """kill -9 and SIGTERM of a driver that has a Ray of its own; then a checkpoint is cut off, too.

    Ctrl-C is tried in tests/runner/cli/test_sweep.py.
    """
    place, draw = Workplace(tmp_path), random.Random(3)
    for stop, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 130)):
        before = set(place.checkpoints())
        process = place.start()
        place.wait_for(lambda before=before: set(place.checkpoints()) - before, process)  # type: ignore[misc]
        time.sleep(draw.random() / 10)
        started = below(process.pid)
        process.send_signal(stop)
        code, output = place.end(process)
        assert code == status, output
        # A driver's own Ray ends with it, whatever way it goes.
        place.wait_for(lambda started=started: not started & working())  # type: ignore[misc]
    newest = place.checkpoints()[-1]
    newest.write_bytes(newest.read_bytes()[:-50])
    place.address = cluster.address
    code, output = place.run()
    assert code == 0, output
    assert "cannot be used: its content does not fit its checksum" in output
    assert "goes on after epoch" in output
    assert place.numbers() == undisturbed
    assert len(place.trials()) == 2


@pytest.mark.long
def test_the_death_of_the_drivers_own_ray_is_survived(undisturbed: dict[str, Any], tmp_path: Path) -> None:
    place = Workplace(tmp_path)
    process = place.start()
    place.wait_for(lambda: place.reached(2), process)
    (raylet,) = [
        pid for pid in below(process.pid) if processes().get(pid, (0, ""))[1].split(" ")[0].endswith("/raylet")
    ]
    # Its workers would not notice for seconds, in which a fast machine ends the sweep.
    for pid in (raylet, *below(raylet)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    code, output = place.end(process)
    assert code == 0, output
    assert "Ray's raylet has died; Ray is started again" in output
    assert place.numbers() == undisturbed
    assert len(place.trials()) == 2


@pytest.mark.long
def test_a_lost_worker_and_a_lost_node_are_retried(
    cluster: Cluster, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """One trial on each of two nodes; the other node does the work of the lost one."""
    place = Workplace(tmp_path, address=cluster.address)
    process = place.start("--checkpoints", f"file://{tmp_path}/checkpoints")
    first, second = sorted(cluster.worker_nodes, key=lambda node: str(node.node_id))
    try:
        place.wait_for(lambda: place.reached(2) and workers(first) and workers(second), process)
        os.kill(workers(first)[0], signal.SIGKILL)
        place.wait_for(lambda: workers(first) and place.reached(6), process)
        killed = workers(second)
        assert len(killed) == 1
        cluster.remove_node(second, allow_graceful=False)
    finally:
        code, output = place.end(process)
        cluster.add_node(num_cpus=1, node_name="third")
    assert code == 0, output
    assert "the worker was lost; it goes on from its last checkpoint (retry 1 of 3)" in output
    assert place.numbers() == undisturbed
    assert len(place.trials()) == 2
    assert len({run.data.tags["cplearn.node"] for run in place.trials()}) == 1


@pytest.mark.long
def test_retries_have_a_limit(cluster: Cluster, tmp_path: Path) -> None:
    text = SWEEP.replace("epochs: 40", "epochs: 100000").replace("[0.1, 1]", "[1]")
    place, recorder = Workplace(tmp_path, text), Recorder()
    killed: set[int] = set()

    def kill(job: Job, epoch: int, metrics: Any) -> None:
        """A worker that has trained is a lost one; one that has not is killed in its start."""
        for worker in set(workers(*cluster.worker_nodes)) - killed:
            killed.add(worker)
            os.kill(worker, signal.SIGKILL)

    recorder.epoch = kill  # type: ignore[method-assign]
    execute(place.jobs(), [recorder], ExecutionOptions(Resources(1, 0), retries=1))
    assert len(killed) == 2
    assert len(recorder.notes) == 1
    assert recorder.kinds == {"beta=1": "lost"}


@pytest.mark.long
def test_a_diverged_trial_is_not_repeated_until_asked(cluster: Cluster, tmp_path: Path) -> None:
    text = SWEEP.replace("method.beta: [0.1, 1]", "optimizer.lr: [1e38]").replace("epochs: 40", "epochs: 2")
    place = Workplace(tmp_path, text, address=cluster.address)
    for arguments, runs in (((), 1), ((), 1), (("--retry-failed",), 2)):
        code, output = place.run(*arguments)
        assert code == 1, output
        assert len(place.trials()) == runs
        assert "the loss became nan in epoch" in output
        assert "alone: cplearn train --dataset digits" in output
        assert ("1 diverged before" in output) == (runs == 1 and "0 trials to run" in output)
    assert {run.info.status for run in place.trials()} == {"FAILED"}
    assert place.checkpoints() == []


@pytest.mark.long
def test_a_sweep_stops_at_equal_exceptions_and_mended_trials_run_again(cluster: Cluster, tmp_path: Path) -> None:
    """A module of the trainer is broken for the workers of the first call."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import sys\n"
        "if any('default_worker' in word for word in sys.argv):\n"
        "    import cplearn.evaluate.protocol as protocol\n"
        "    def run(model, *arguments, **options):\n"
        "        raise RuntimeError(f'device {id(model):#x} has a fault')\n"
        "    protocol.run = run\n"
    )
    text = SWEEP.replace("epochs: 40", "epochs: 1").replace("[0.1, 1]", "[0.1, 0.5, 1]")
    place = Workplace(tmp_path / "place", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{broken}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        code, output = place.end(place.start("--stop-after", "2"))
    assert code == 1, output
    assert "stopped: the same failure came again and again" in output
    assert "RuntimeError: device" in output
    assert "alone: cplearn train --dataset digits" in output
    assert {run.info.status for run in place.trials()} <= {"FAILED", "KILLED"}
    assert "exception" in {run.data.tags.get("cplearn.failure") for run in place.trials()}
    place.address = cluster.address
    code, output = place.run()
    assert code == 0, output
    assert len(place.numbers()) == 3


@pytest.mark.long
def test_results_wait_for_a_tracking_server_that_is_away(
    cluster: Cluster, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    folder, port = tmp_path / "server", free_port()
    database = f"sqlite:///{folder}/mlflow.db"
    place = Workplace(tmp_path / "place", uri=f"http://127.0.0.1:{port}", address=cluster.address)
    with mlflow_server(database, folder, port):
        process = place.start()
        place.wait_for(place.checkpoints, process)
    # Away until the training is over and only the store is waited for.
    place.wait_for(lambda: len([p for p in place.checkpoints() if "000040" in p.name]) == 2, process)
    time.sleep(3)
    assert process.poll() is None
    with mlflow_server(database, folder, port):
        code, output = place.end(process)
        assert code == 0, output
        assert "the tracking store is away" in output
        assert "the tracking store is back" in output
        assert place.numbers() == undisturbed
        assert len(place.trials()) == 2


@pytest.mark.long
def test_three_drivers_of_one_sweep_share_the_work(
    cluster: Cluster, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """On a store that does not exist yet, which each spells differently; the last declares one trial more. The disk is
    full for one of the others: every file that its checkpoints would first be written to is the device that is always
    full."""
    (tmp_path / "link.db").symlink_to("mlflow.db")
    places = [
        Workplace(tmp_path, uri=uri, address=cluster.address)
        for uri in (f"sqlite:///{tmp_path}/mlflow.db", "sqlite:///mlflow.db", f"sqlite:///{tmp_path}/link.db")
    ]
    place = places[0]
    (tmp_path / "checkpoints").mkdir()
    for epoch in range(1, 41):
        name = f"{place.jobs()[0].key}.{epoch:06d}.ckpt.part"
        (tmp_path / "checkpoints" / name).symlink_to("/dev/full")
    first, second = (place.start() for place in places[:2])
    outputs = [places[2].run("--set", "method.beta=[0.1,1,5]"), *map(place.end, (first, second))]
    assert [code for code, _ in outputs] == [0, 0, 0], outputs
    output = " ".join(output for _, output in outputs)
    assert "being run by another sweep; waiting for it" in output
    assert output.count("could not be written (No space left on device); training goes on") == 1
    numbers = place.numbers()
    assert numbers.keys() == {"beta=0.1", "beta=1", "beta=5"}
    assert {label: numbers[label] for label in undisturbed} == undisturbed
    assert len(place.trials()) == 3
    assert len([run for run in place.runs() if run.data.tags["cplearn.kind"] == "sweep"]) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": {"lr": 1e38, "weight_decay": 1e-7}, "seed": 3, "backbone": {"width": 4}},
        {"method": {"name": "untrained"}, "backbone": {"name": "pixels"}},
        {"dataset": "folder:/some where/it's", "image_size": 32, "common_random_numbers": False},
        {"evaluation": {"gmm_components": [10, 20], "probe": ["adam", "lbfgs"], "transfer": ["svhn"]}},
        *(
            {"dataset": "folder:/x", "backbone": {"name": "timm", "model": name}}
            for name in ("vit_small", "007", "1e5")
        ),
        {"dataset": "cifar10", "method": {"form": "tanh", "beta": 0.1}, "augment": {"recipe": "none"}},
    ],
)
def test_the_command_of_a_trial_makes_the_same_trial(settings: dict[str, Any]) -> None:
    import shlex

    trial = TrialSettings.read(settings)
    words = shlex.split(command(trial))
    assert words[:3] == ["cplearn", "train", "--dataset"]
    given = dict(parse_override(text) for text in words[5::2])
    assert set(words[4::2]) == {"--set"}
    assert TrialSettings.read(nested({**given, "dataset": words[3]})) == trial


def test_failures_are_the_same_but_for_numbers_addresses_and_folders() -> None:
    text = 'File "/home/{}/x.py", line 3, in f\nValueError: object at 0x7f{:08x} of {} rows ({:e})'
    one, other = text.format("ann", 123456, 5, 0.1), text.format("bob/lib", 99999999, 70, 2e-9)
    assert normalise(one) == normalise(other)
    assert normalise(one) != normalise(one.replace("ValueError", "KeyError"))
    assert normalise(one) != normalise(one.replace("x.py", "y.py"))


def test_no_garbage_is_collected_while_ray_shuts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that collected a reference to one of Ray's objects meanwhile would end the whole process."""

    class Cycle:
        def __init__(self) -> None:
            self.me = self

    gc.disable()
    garbage = weakref.ref(Cycle())
    gc.enable()
    seen: list[tuple[bool, bool]] = []
    monkeypatch.setattr("ray.shutdown", lambda: seen.append((gc.isenabled(), garbage() is None)))
    stop_ray()
    assert seen == [(False, True)]
    assert gc.isenabled()
