"""The benchmark: its arithmetic on numbers checked by hand, its machinery at small size. No time is judged."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

import benchmarks as bench
from benchmarks import (
    augmentation,
    commands,
    convolutions,
    dictionary,
    first_metric,
    gpu,
    growth,
    peers,
    plain,
    render,
    report,
    sources,
    step,
    sweep,
)
from benchmarks.measure import Goal, Growth, Measured, Pair, Part, alternate, exponent, summary
from cplearn import data, methods
from cplearn.config.trial import TrialSettings
from cplearn.errors import InputError
from cplearn.methods import barlow_twins
from cplearn.methods.base import Batch, MethodInputs, Progress
from cplearn.training import TrialTraining
from reports import store
from runner.machine.environment import WorkerLost, in_worker


def test_ratios_are_those_of_the_medians_and_of_each_turn() -> None:
    pair = Pair("a over b", "s", ("a", "b"), [3.0, 8.0, 10.0], [1.0, 4.0, 2.0], Goal("at least", 4))
    found = pair.document()
    assert found["ratio"]["of_medians"] == 8 / 2
    assert found["ratio"]["by_turn"] == {"values": [3, 2, 5], "median": 3, "min": 2, "max": 5}
    assert [side["median"] for side in found["sides"]] == [8, 2]
    assert found["goal"] == {"sense": "at least", "bound": 4, "met": True}


def test_a_side_with_fewer_turns_is_compared_with_the_same_turns_of_the_other() -> None:
    pair = Pair("a over b", "s", ("a", "b"), [6.0, 100.0, 100.0], [2.0])
    assert pair.ratio() == 3
    assert pair.ratios() == [3]
    with pytest.raises(ValueError, match="a side without numbers"):
        Pair("empty", "s", ("a", "b"), [1.0], [])


@pytest.mark.parametrize(
    ("goal", "value", "met"),
    [
        (Goal("at least", 12), 12.0, True),
        (Goal("at least", 12), 11.99, False),
        (Goal("at most", 0.6), 0.6, True),
        (Goal("at most", 0.6), 0.61, False),
        (Goal("at least", 12), math.nan, False),
        (Goal("at most", 0.6), math.nan, False),
    ],
)
def test_goals(goal: Goal, value: float, met: bool) -> None:
    assert goal.met(value) is met


def test_exponents_of_power_laws() -> None:
    assert exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    assert exponent([10, 1000], [5, 5]) == pytest.approx(0)
    with pytest.raises(ValueError, match="two sizes"):
        exponent([4], [1])
    found = Growth("images", [1, 2, 4], [[1.0, 3.0], [2.0], [8.0]]).document()
    assert found["last_exponent"] == pytest.approx(2)
    assert [point["median"] for point in found["points"]] == [2, 2, 8]


def test_sides_take_turns() -> None:
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return len(order)

    numbers = alternate({"a": lambda: side("a"), "b": lambda: side("b")}, 3)
    assert "".join(order) == "ababab"
    assert numbers == {"a": [1, 3, 5], "b": [2, 4, 6]}


def environment(key: str) -> str | None:
    return os.environ.get(key)


def test_a_worker_has_its_environment_and_leaves_ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    assert in_worker(environment, "MALLOC_TRIM_THRESHOLD_") == str(2**30)
    assert "MALLOC_TRIM_THRESHOLD_" not in os.environ


@pytest.mark.parametrize(
    ("function", "argument", "told"),
    [(signal.raise_signal, signal.SIGKILL, "was killed by SIGKILL; .* memory"), (os._exit, 3, "ended with status 3")],
)
def test_a_worker_that_dies_says_by_what(function: Callable[[int], None], argument: int, told: str) -> None:
    with pytest.raises(WorkerLost, match=told):
        in_worker(function, argument)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1783.2, "1,783"), (99.96, "100.0"), (12.34, "12.3"), (1.5, "1.50"), (0.0513, "0.0513"), (0.0, "0")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert render.number(value) == text


PAIR = Pair("images", "images/s", ("end to end", "bare"), [90.0, 100.0], [100.0, 100.0], Goal("at least", 0.95))


def broken(quick: bool) -> Part:
    raise RuntimeError("no such\nluck")


PARTS = {
    "good": lambda quick: Part(
        "Good",
        "How.",
        [PAIR, Measured("first", "s", [20.0], Goal("at most", 15)), Growth("epochs", [1, 2], [[1.0], [2.0]])],
    ),
    "none": lambda quick: Part("None", "How.", notes=["Never run."], skipped="no device here."),
    "broken": broken,
}


def run(out: Path, **options: Any) -> tuple[dict[str, Any], str, str]:
    """bench.json, bench.md and what the terminal showed."""
    shown = io.StringIO()
    path, failed = bench.run(out, console=Console(file=shown, width=200), parts=PARTS, **options)
    assert path == out / "bench.md"
    assert failed == ["broken"][: not options.get("only")]
    return json.loads((out / "bench.json").read_text()), path.read_text(), shown.getvalue()


def test_both_files_are_written_and_agree(tmp_path: Path) -> None:
    document, markdown, shown = run(tmp_path / "new")
    assert markdown == render.to_markdown(document)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["bench.json", "bench.md"]
    assert document["machine"]["cores"] == os.cpu_count()
    assert document["machine"]["torch"] == torch.__version__.partition("+")[0]
    assert list(document["parts"]) == ["good", "none", "broken"]
    assert "**0.950** | 0.900 to 1.00 (n = 2) | at least 0.950: met" in markdown
    assert "| first | 20.0 s | 1 | at most 15.0: **missed** |" in markdown
    assert "| epochs | 1: 1.00; 2: 2.00 | 1.00 | 1.00 |" in markdown
    assert "Never run." in markdown
    assert "Skipped: no device here." in markdown
    assert "RuntimeError: no such\nluck" in markdown
    lines = shown.splitlines()
    assert [line.split()[0] for line in lines] == ["good", "none", "broken"]
    assert "3 rows, 1 of 2 goals met; missed: first" in lines[0]
    assert "failed: RuntimeError: no such" in lines[2]


def test_a_quick_run_says_so_and_judges_no_goal(tmp_path: Path) -> None:
    document, markdown, _ = run(tmp_path, quick=True, only=["good"])
    assert list(document["parts"]) == ["good"]
    assert [row["goal"] for row in document["parts"]["good"]["rows"]] == [None, None, None]
    assert "A quick run" in markdown
    assert "missed" not in markdown


def test_users_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no part 'stpe'; did you mean 'step'"):
        bench.run(tmp_path, only=["stpe"])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write there"):
        run(tmp_path / "file")


def test_training_is_compared_on_digits_and_on_random_images() -> None:
    rows = step.compare(1, 64)
    assert [row.label.partition(",")[0] for row in rows] == ["digits"] * 3 + ["random 32x32"] * 3
    assert [row.unit for row in rows] == ["images/s", "images/s", "GFLOP/s"] * 2
    assert all(len(row.first) == len(row.second) == 1 and min(*row.first, *row.second) > 0 for row in rows)


def test_the_convolutions_alone_are_those_of_the_backbone() -> None:
    """As many operations as forward and backward of the whole backbone, but for the gradient of the first input."""
    trial = TrialSettings.read({"backbone": {"width": 4}, "epochs": 1})
    training = TrialTraining(trial, data.load(**trial.data_request()))
    views, _ = next(training.views.epoch(0))
    images = training.model.prepare(views[0])
    with FlopCounterMode(display=False) as whole:
        training.model.backbone(images).sum().backward()
    alone = convolutions.convolutions_of(training.model.backbone, images)
    with FlopCounterMode(display=False) as parts:
        alone()
    assert parts.get_total_flops() == whole.get_total_flops() > 0


def test_the_plain_loop_has_our_loss() -> None:
    """Value and gradient, over the same embeddings and dictionary."""
    trial = TrialSettings.read({"method": {"form": "tanh", "codes": 300, "beta": 0.3}, "precision": "float64"})
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(2, trial.batch_size, 16, generator=draw, dtype=torch.float64)
    inputs = MethodInputs(16, trial.batch_size, 10, draw, lambda update: draw)
    method = methods.get("cplearn").Method(trial.method, inputs).double()
    ours, _ = method(Batch(features, torch.zeros(trial.batch_size), Progress(0, 1, 1)))
    views = [torch.tanh(method.norm(method.linear(view))) for view in features]
    theirs = plain.loss(*views, method.dictionary.double().T, 0.3)
    assert theirs.item() == pytest.approx(ours.item(), rel=1e-9)
    gradients = [torch.autograd.grad(loss, method.linear.weight)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-7, atol=1e-10)


def test_lightly_has_our_barlow_twins() -> None:
    pytest.importorskip("lightly", reason="lightly is not installed")
    few = {"train_images": 140, "test_images": 10, "backbone": {"width": 2}}
    trial = TrialSettings.read({"epochs": 1, "method": "barlow_twins", "augment": {"recipe": "solo-cifar"}, **few})
    loop = plain.lightly(trial, step.random_images(140, size=16))
    views = torch.randn(2, 64, 12, generator=torch.Generator().manual_seed(0))
    diagonal, off_diagonal = barlow_twins.redundancy(views)
    theirs = loop.network.loss(*views)
    assert theirs.item() == pytest.approx((diagonal + trial.method.off_diagonal * off_diagonal).item(), rel=1e-4)
    assert math.isfinite(loop.epoch())


def test_both_loops_learn_from_the_same_images() -> None:
    settings = {"train_images": 140, "test_images": 10, "backbone": {"width": 2}, "method": {"form": "tanh"}}
    trial = TrialSettings.read({"epochs": 1, **settings})
    loop = plain.cplearn(trial, data.load(**trial.data_request()))
    assert len(loop.batches) == 2
    first = loop.epoch()
    assert math.isfinite(first)
    assert loop.epoch() != first


@pytest.mark.long
def test_both_sweeps_run_the_same_trials() -> None:
    whole, beyond = peers.sweep_rows(quick=True)
    assert whole.names == ("Ray Tune", "this program")
    assert all(0 < after < seconds for after, seconds in zip(beyond.first, whole.first, strict=True))
    assert all(after < seconds for after, seconds in zip(beyond.second, whole.second, strict=True))


@pytest.mark.parametrize("recipe", ["solo-cifar", "paper"])
def test_the_per_image_pipelines_give_what_the_recipes_give(recipe: str) -> None:
    """One float tensor in [0, 1] of the images' size for each view, and different pixels each time."""
    from PIL import Image

    image = Image.effect_noise((32, 32), 80).convert("RGB")
    for pipelines in augmentation.per_image(recipe).values():
        assert len(pipelines) == 2
        for pipeline in pipelines:
            views = [pipeline(image) for _ in range(8)]
            assert {(view.shape, view.dtype) for view in views} == {((3, 32, 32), torch.float32)}
            assert all(view.min() >= 0 and view.max() <= 1 for view in views)
            assert any(not torch.equal(views[0], view) for view in views)


def test_sources_are_compared_with_the_cached_folder() -> None:
    rows = sources.compare(1, 64)
    kinds = {row.label for row in rows}
    assert kinds == {
        *(f"{kind}, batches" for kind in ("folder", "parquet", "wds")),
        *(f"{kind}, first load" for kind in ("parquet", "wds", "npz")),
    }
    assert all(min(*row.first, *row.second) > 0 for row in rows)


def test_augmentation_is_compared_with_both_apis() -> None:
    rows = augmentation.compare(1, 16)
    assert [row.label for row in rows] == [
        f"{recipe}, torchvision {api}" for recipe in ("solo-cifar", "paper") for api in ("v1", "v2")
    ]


def test_the_peak_is_what_is_held_at_once() -> None:
    mebibyte = 2**20

    def call() -> None:
        for _ in range(3):
            torch.empty(2 * mebibyte, dtype=torch.uint8)
        held = torch.empty(mebibyte, dtype=torch.uint8)
        torch.empty(4 * mebibyte, dtype=torch.uint8)
        del held

    assert dictionary.peak_bytes(call) == 5 * mebibyte


def test_the_dictionary_is_compared_in_time_memory_and_choice() -> None:
    time, memory, choice = dictionary.compare(2048, 16, 2, 1)
    assert memory.ratio() < 1
    assert len(time.first) == len(time.second) == 2
    assert choice.names[1] in ("streamed", "materialised")


def test_a_metric_is_seen_as_soon_as_it_is_written(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    assert not first_metric.has_metrics(database)
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE other (x)")
        assert not first_metric.has_metrics(database)
        connection.execute("CREATE TABLE latest_metrics (key TEXT)")
        connection.commit()
        assert not first_metric.has_metrics(database)
        connection.execute("INSERT INTO latest_metrics VALUES ('train/loss')")
        connection.commit()
    assert first_metric.has_metrics(database)


def test_commands_run_in_a_workplace_of_their_own_and_their_failure_is_told() -> None:
    with commands.workplace() as place:
        assert place.seconds("settings") > 0
        with pytest.raises(commands.CommandFailed, match=r"status 2.*nowhere\.yaml"):
            place.seconds("sweep", "nowhere.yaml")
    assert not place.folder.exists()


def test_a_terminated_benchmark_ends_the_command_that_it_times(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "runner.cli", "bench", "first-metric", "--results", str(tmp_path)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (timed := sweeps_of(process.pid)):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 130, output
    assert output.strip() == "Stopped; bench.md holds the parts that were through."
    assert not any(path.exists() for path in timed)


def sweeps_of(pid: int) -> list[Path]:
    """The folders in /proc of the commands `cplearn sweep` that a process has started."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):
            found += [Path("/proc", child)] * (b"\0sweep\0" in Path("/proc", child, "cmdline").read_bytes())
    return found


def test_the_store_of_the_report_is_one_that_reports_can_read(tmp_path: Path) -> None:
    report.fill(tmp_path, 2, 2)
    (result,) = store.read_sweep(commands.Workplace(tmp_path).uri, "bench")
    assert list(result.runs["status"]) == ["FINISHED"] * 4
    assert result.runs["probe/accuracy"].notna().all()


@pytest.mark.parametrize("label", ["training images", "epochs", "codes"])
def test_growth_is_measured_at_each_size(label: str) -> None:
    sizes = {"training images": [64, 128], "epochs": [0, 1], "codes": [16, 64]}[label]
    row = growth.trials_of(label, sizes, 1, True)
    assert [len(values) for values in row.seconds] == [1, 1]


def test_the_gpu_part_measures_on_any_device_but_is_skipped_without_cuda() -> None:
    rows = gpu.measure(1, "cpu")
    assert [row.label for row in rows] == ["speed", "launches"]
    if not torch.cuda.is_available():
        part = gpu.run(True)
        assert part.skipped
        assert gpu.UNTRIED in part.notes


def test_every_number_has_its_spread() -> None:
    assert summary([2.0, 1.0, 9.0]) == {"values": [2, 1, 9], "median": 2, "min": 1, "max": 9}


def test_a_sweep_is_timed_between_its_trials() -> None:
    """Ten seconds of start, then two trials a second, then one a second; what is between two looks lies on a line."""
    seen = [(0, 0), (10, 0), (12, 4), (14, 8), (18, 12), (22, 16)]
    samples = [sweep.Sample(when, 100 + done, done) for when, done in seen]
    assert sweep.pace(samples, 0, 0.25) == pytest.approx(0.5)
    assert sweep.pace(samples, 0.75, 1) == pytest.approx(1)
    assert sweep.pace(samples, 0.25, 0.75) == pytest.approx(0.75)
    assert [sweep.memory(samples, share) for share in (0.25, 1)] == [104, 116]


def test_copied_runs_are_known_to_a_plan(tmp_path: Path) -> None:
    report.fill(tmp_path, 1, 1)
    place = commands.Workplace(tmp_path)
    sweep.copy_runs(place, 7)
    keys = store.trial_records(place.uri)
    assert len(keys) == 7
    assert {run.status for run in keys.values()} == {"FINISHED"}
    assert len({run.run_id for run in keys.values()}) == 7
