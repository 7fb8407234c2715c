"""Checkpoints: whole or not at all, and going on from one gives the numbers of never having stopped."""

from __future__ import annotations

import io
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from cplearn.config.trial import TrialSettings
from cplearn.data import Dataset
from cplearn.errors import InputError
from cplearn.training import TrialTraining
from runner.durability.checkpoints import KEPT, MAGIC, Checkpoints, _digest
from runner.execution.contract import StepReport
from runner.execution.trainable import TrialTrainable
from trials import trial

A, B = "00000000000000aa", "00000000000000bb"


def state(epoch: int, size: int = 10) -> dict[str, Any]:
    return {"epoch": epoch, "weights": torch.arange(float(size)) + epoch, "history": [(epoch, 1, {"train/loss": 0.5})]}


@pytest.fixture(params=["path", "address"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    folder = tmp_path / "kept"
    return Checkpoints(str(folder) if request.param == "path" else folder.as_uri())


def restore(store: Checkpoints) -> tuple[dict[str, Any] | None, str]:
    """The state that was restored, and the note."""
    taken: list[dict[str, Any]] = []
    note = store.restore(A, taken.append)
    return (taken[0] if taken else None), note


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "kept").iterdir())


def test_the_newest_are_kept_and_come_back(store: Checkpoints, tmp_path: Path) -> None:
    assert store.epochs([A]) == {}
    assert restore(store) == (None, "")
    for epoch in range(1, 5):
        for key in (A, B):
            store.save(key, state(epoch))
    assert files(tmp_path) == [f"{key}.{epoch:06d}.ckpt" for key in (A, B) for epoch in (3, 4)]
    assert KEPT == 2
    assert store.epochs([A, "cc"]) == {A: 4}
    restored, note = restore(store)
    assert restored is not None
    assert torch.equal(restored["weights"], state(4)["weights"])
    assert restored["history"] == [(4, 1, {"train/loss": 0.5})]
    assert note == ""
    for key in (A, B):
        Path(store.root, f"{key}.000005.ckpt.part").write_bytes(b"as far as a killed worker came")
    store.discard([A])
    assert store.epochs([A, B]) == {B: 4}
    assert files(tmp_path) == [f"{B}.{name}" for name in ("000003.ckpt", "000004.ckpt", "000005.ckpt.part")]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _flip, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_serves(store: Checkpoints, damage: Any) -> None:
    for epoch in (1, 2):
        store.save(A, state(epoch))
    damage(Path(store.root, f"{A}.000002.ckpt"))
    restored, note = restore(store)
    assert restored is not None
    assert restored["epoch"] == 1
    assert f"epoch 2 (key {A}) cannot be used" in note
    assert note.endswith("; so training goes on from epoch 1")
    damage(Path(store.root, f"{A}.000001.ckpt"))
    restored, note = restore(store)
    assert restored is None
    assert note.endswith("; so training starts anew")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system refuses to let a file grow beyond `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_the_old_checkpoint_and_no_rubbish(tmp_path: Path) -> None:
    store = Checkpoints(str(tmp_path / "kept"))
    store.save(A, state(1))
    with largest_file(1000), pytest.raises(OSError, match="File too large"):
        store.save(A, state(2, size=10_000))
    assert files(tmp_path) == [f"{A}.000001.ckpt"]
    Path(store.root, f"{A}.000002.ckpt.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        store.save(A, state(2))
    assert files(tmp_path) == [f"{A}.000001.ckpt"]
    restored, _ = restore(store)
    assert restored is not None
    assert restored["epoch"] == 1


def test_a_folder_that_cannot_be_read_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("not a folder")
    with pytest.raises(InputError, match=r"--checkpoints .*kept"):
        Checkpoints(str(tmp_path / "kept")).epochs([A])


@pytest.mark.parametrize("place", ["nowhere://bucket/x", "s3://"])
def test_an_address_that_makes_no_sense_is_refused(place: str) -> None:
    with pytest.raises(InputError, match="--checkpoints"):
        Checkpoints(place)


SMALL = {"hidden_dim": 16, "embedding_dim": 8}
CODES = {**SMALL, "codes": 12}


@pytest.mark.parametrize(
    "changes",
    [
        {"method": {"name": "dino", **CODES, "warmup_epochs": 3}},
        {"method": {"name": "dino", **CODES, "warmup_epochs": 3}, "augment": {"local_views": 2}},
        {"method": {"name": "swav", **CODES, "queue": 40, "queue_from_epoch": 1}},
        {"method": {"name": "self_classifier", **CODES}, "optimizer": {"name": "sgd"}},
        {"method": {"name": "gedi", "hidden_dim": 16, "codes": 12}, "common_random_numbers": False},
        {"method": {"name": "barlow_twins", **SMALL}, "optimizer": {"name": "lars"}},
        {"method": {"name": "vicreg", **SMALL}, "optimizer": {"name": "adamw", "weight_decay_end": 0.1, "clip": 1.0}},
        {"method": {"name": "simclr", **SMALL}, "evaluation": {"online_probe": True}},
        {"method": {"name": "lejepa", **SMALL}, "augment": {"local_views": 2}},
        {"method": {"name": "byol", **SMALL}},
        {"method": {"name": "simsiam", **SMALL, "predictor_dim": 4}},
        {"method": {"name": "mmcr", **SMALL, "weight": 0.1}},
        {"method": {"name": "simdino", **SMALL, "smooth": True}},
        {"method": {"name": "supervised"}, "precision": "float16"},
        {"precision": "bfloat16", "optimizer": {"warmup_epochs": 1.5, "weight_decay": 1e-4}},
    ],
    ids=lambda changes: changes.get("method", {}).get("name", "cplearn"),
)
def test_resumed_training_is_uninterrupted_training_bit_for_bit(
    changes: dict[str, Any], digits: Dataset, tmp_path: Path
) -> None:
    """Through a file, for every method, optimiser and precision, in the middle of schedules."""
    method = changes.get("method", {"name": "cplearn", "codes": 12, "embedding_dim": 8})
    evaluation = {"kmeans_restarts": 1, **changes.get("evaluation", {})}
    settings = TrialSettings.read(
        {
            "epochs": 3,
            "batch_size": 32,
            "backbone": {"name": "resnet8-slim", "width": 4},
            **changes,
            "method": method,
            "evaluation": evaluation,
        }
    )
    straight = TrialTraining(settings, digits)
    straight.train_epoch()
    store = Checkpoints(str(tmp_path))
    store.save(A, straight.state_dict())
    state, _ = restore(store)
    assert state is not None
    resumed = TrialTraining(settings, digits)
    resumed.load_state_dict(state)
    for _ in range(2):
        expected, metrics = straight.train_epoch(), resumed.train_epoch()
        assert {**metrics, "train/images_per_second": 0} == {**expected, "train/images_per_second": 0}
    assert resumed.finished
    assert_equal(straight.state_dict(), resumed.state_dict())


def assert_equal(one: Any, other: Any, place: str = "state") -> None:
    """Fail unless two states are equal, tensors bit for bit; times apart."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for name in one.keys() - {"seconds"}:
            assert_equal(one[name], other[name], f"{place}[{name!r}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    else:
        assert one == other, place


ODD_STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no state": lambda state: [state],
    "another epoch": lambda state: {**state, "epoch": 7},
    "too many epochs": lambda state: {**state, "epoch": 10**30},
    "no weights": lambda state: {**state, "model": None},
    "other weights": lambda state: {**state, "model": {"a": torch.ones(2)}},
    "other shapes": lambda state: {**state, "model": {name: w[..., None] for name, w in state["model"].items()}},
    "sparse weights": lambda state: {**state, "model": {name: w.to_sparse() for name, w in state["model"].items()}},
    "no history": lambda state: {name: part for name, part in state.items() if name != "history"},
    "a history of words": lambda state: {**state, "history": ["one"]},
    "no optimiser": lambda state: {**state, "optimizer": {}},
    "another optimiser": lambda state: _of_optimizer(state, lambda tensors: {"momentum_buffer": tensors["exp_avg"]}),
    "moments of other shapes": lambda state: _of_optimizer(
        state, lambda tensors: {**tensors, "exp_avg": tensors["exp_avg"].new_ones(7, 7, 7)}
    ),
    "a rate in words": lambda state: {
        **state,
        "optimizer": {**state["optimizer"], "param_groups": [{"betas": "?", "params": [0]}]},
    },
    "seconds in words": lambda state: {**state, "seconds": "long"},
    "a failure of no words": lambda state: {**state, "failure": 3},
}


def _of_optimizer(state: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    moments = {place: change(tensors) for place, tensors in state["optimizer"]["state"].items()}
    return {**state, "optimizer": {**state["optimizer"], "state": moments}}


def write(store: Checkpoints, epoch: int, content: Any) -> None:
    """A file with a right digest, whatever is in it."""
    if not isinstance(content, bytes):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        content = buffer.getvalue()
    Path(store.root, f"{A}.{epoch:06d}.ckpt").write_bytes(MAGIC + _digest(content) + content)


@pytest.fixture(scope="module")
def worker(digits: Dataset) -> TrialTrainable:
    """A worker without Ray."""
    worker = TrialTrainable.__new__(TrialTrainable)
    settings = trial(epochs=3, method={"codes": 12, "embedding_dim": 8})
    worker.report = StepReport()
    worker._make = lambda: TrialTraining(settings, digits)  # type: ignore[method-assign]
    return worker


@pytest.fixture(scope="module")
def states(worker: TrialTrainable) -> list[dict[str, Any]]:
    """Its states after one epoch and after two."""
    straight, states = worker._make(), []
    for _ in range(2):
        straight.train_epoch()
        states.append({**straight.state_dict(), "history": [(straight.epoch, 1, {"train/loss": 0.5})]})
    return states


@pytest.mark.parametrize("name", [*ODD_STATES, "no pickle", "a module"])
def test_whatever_a_checkpoint_holds_the_one_before_serves(
    name: str, worker: TrialTrainable, states: list[dict[str, Any]], tmp_path: Path
) -> None:
    store, odd = Checkpoints(str(tmp_path)), {"no pickle": b"PK\x03\x04", "a module": torch.nn.Linear(2, 2)}
    store.save(A, states[0])
    write(store, 2, odd[name] if name in odd else ODD_STATES[name](states[1]))
    worker.training = worker._make()
    note = store.restore(A, worker._go_on)
    assert worker.training.epoch == 1
    assert note.startswith(f"the checkpoint of epoch 2 (key {A}) cannot be used: ")
    assert note.endswith("; so training goes on from epoch 1")
    assert note.count("\n") == 0


def test_without_a_checkpoint_that_can_be_used_training_starts_anew(worker: TrialTrainable, tmp_path: Path) -> None:
    store = Checkpoints(str(tmp_path))
    for epoch in (1, 2):
        write(store, epoch, {"epoch": epoch, "history": []})
    worker.training = worker._make()
    assert store.restore(A, worker._go_on).endswith("; so training starts anew")
    assert worker.training.epoch == 0
    assert worker.history == []
