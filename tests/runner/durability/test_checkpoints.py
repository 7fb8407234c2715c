"""Checkpoints: whole or not at all, and going on from one gives the numbers of never having stopped."""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import cplearn.data
from cplearn.config.trial import TrialSettings
from cplearn.errors import InputError
from cplearn.training import Pack
from runner.durability.checkpoints import KEPT, Checkpoints

A, B = "00000000000000aa", "00000000000000bb"


def state(epoch: int, size: int = 10) -> dict[str, Any]:
    return {"epoch": epoch, "weights": torch.arange(float(size)) + epoch, "history": [(epoch, 1, {"train/loss": 0.5})]}


@pytest.fixture(params=["path", "address"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoints:
    folder = tmp_path / "kept"
    return Checkpoints(str(folder) if request.param == "path" else folder.as_uri())


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "kept").iterdir())


def test_the_newest_are_kept_and_come_back(store: Checkpoints, tmp_path: Path) -> None:
    assert store.epochs([A]) == {}
    assert store.restore([A]).states == []
    for epoch in range(1, 5):
        store.save({A: state(epoch), B: state(epoch)})
    assert files(tmp_path) == [f"{key}.{epoch:06d}.ckpt" for key in (A, B) for epoch in (3, 4)]
    assert KEPT == 2
    assert store.epochs([A, "cc"]) == {A: 4}
    (a, b), notes = store.restore([A, B]).states, store.restore([A, B]).notes
    assert torch.equal(a["weights"], state(4)["weights"])
    assert b["history"] == [(4, 1, {"train/loss": 0.5})]
    assert notes == []
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
        store.save({A: state(epoch), B: state(epoch)})
    damage(Path(store.root, f"{B}.000002.ckpt"))
    restored = store.restore([A, B])
    assert [one["epoch"] for one in restored.states] == [1, 1]
    assert [f"epoch 2 (key {B}) cannot be used" in note for note in restored.notes] == [True]
    damage(Path(store.root, f"{A}.000001.ckpt"))
    restored = store.restore([A, B])
    assert restored.states == []
    assert restored.notes[-1] == "no usable checkpoint, so training starts anew"


def test_a_pack_goes_on_from_an_epoch_that_all_its_members_have(store: Checkpoints) -> None:
    store.save({A: state(1), B: state(1)})
    # As if the worker had been killed between the files of one pack.
    store.save({A: state(2)})
    assert [one["epoch"] for one in store.restore([A, B]).states] == [1, 1]
    assert [one["epoch"] for one in store.restore([A]).states] == [2]


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
    store.save({A: state(1)})
    with largest_file(1000), pytest.raises(OSError, match="File too large"):
        store.save({A: state(2, size=10_000)})
    assert files(tmp_path) == [f"{A}.000001.ckpt"]
    Path(store.root, f"{A}.000002.ckpt.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        store.save({A: state(2)})
    assert files(tmp_path) == [f"{A}.000001.ckpt"]
    assert store.restore([A]).states[0]["epoch"] == 1


def test_a_folder_that_cannot_be_read_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("not a folder")
    with pytest.raises(InputError, match=r"--checkpoints .*kept"):
        Checkpoints(str(tmp_path / "kept")).epochs([A])


@pytest.mark.parametrize("place", ["nowhere://bucket/x", "s3://"])
def test_an_address_that_makes_no_sense_is_refused(place: str) -> None:
    with pytest.raises(InputError, match="--checkpoints"):
        Checkpoints(place)


def trial(**changes: Any) -> TrialSettings:
    return TrialSettings.read(
        {
            "epochs": 4,
            "method": {"codes": 32, "embedding_dim": 16, "beta": changes.pop("beta", 1.0)},
            "backbone": {"name": "resnet8-slim", "width": 4},
            "evaluation": {"kmeans_restarts": 1},
            "batch_size": 256,
            **changes,
        }
    )


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
        {"method": {"name": "supervised"}, "precision": "float16"},
        {"precision": "bfloat16"},
    ],
    ids=lambda changes: changes.get("method", {}).get("name", "cplearn"),
)
def test_nothing_of_any_method_optimiser_or_precision_is_lost(changes: dict[str, Any], tmp_path: Path) -> None:
    full = cplearn.data.load("digits")
    digits = dataclasses.replace(
        full, train=dataclasses.replace(full.train, images=full.train.images[:128], labels=full.train.labels[:128])
    )
    method = changes.get("method", {"name": "cplearn", "codes": 12, "embedding_dim": 8})
    evaluation = {"kmeans_restarts": 1, **changes.get("evaluation", {})}
    own = TrialSettings.read(
        {
            "epochs": 3,
            "batch_size": 32,
            "backbone": {"name": "resnet8-slim", "width": 4},
            **changes,
            "method": method,
            "evaluation": evaluation,
        }
    )
    straight = Pack([own], digits)
    straight.train_epoch()
    store = Checkpoints(str(tmp_path))
    store.save({A: straight.member_state(0)})
    resumed = Pack([own], digits)
    resumed.load_member_states(store.restore([A]).states)
    for _ in range(2):
        (_, expected), (_, found) = straight.train_epoch()[0], resumed.train_epoch()[0]
        assert {**found, "train/images_per_second": 0} == {**expected, "train/images_per_second": 0}
    one, other = straight.member_state(0), resumed.member_state(0)
    for part in ("model", "optimizer", "online"):
        assert one.get(part, {}).keys() == other.get(part, {}).keys()
        for name, tensor in one.get(part, {}).items():
            assert torch.equal(tensor, other[part][name]), (part, name)


def test_resumed_training_is_uninterrupted_training_bit_for_bit(tmp_path: Path) -> None:
    """Through files, at an epoch in the middle of a cosine schedule with warm-up, alone and regrouped."""
    digits = cplearn.data.load("digits")
    shared = {"optimizer": {"warmup_epochs": 1.0, "weight_decay": 1e-4}}
    trials = [trial(**shared), trial(**shared, beta=0.1), trial(**shared, seed=5)]

    def to_end(pack: Pack) -> list[dict[str, float]]:
        while not pack.finished:
            last = pack.train_epoch()
        return [{k: v for k, v in metrics.items() if "per_second" not in k} for _, metrics in last]

    straight = Pack(trials[:1], digits)
    expected = to_end(straight)
    stopped = Pack(trials[:1], digits)
    stopped.train_epoch()
    stopped.train_epoch()
    store = Checkpoints(str(tmp_path))
    store.save({A: stopped.member_state(0)})
    resumed = Pack(trials[:1], digits)
    resumed.load_member_states(store.restore([A]).states)
    assert to_end(resumed) == expected
    for name, weights in resumed.model.state_dict().items():
        assert torch.equal(weights, straight.model.state_dict()[name]), name

    # Two of three members of a pack, in another order.
    together = Pack(trials, digits)
    whole = Pack(trials, digits)
    to_end(whole)
    together.train_epoch()
    store.save({key: together.member_state(k) for k, key in enumerate([A, B, "cc"])})
    two = Pack([trials[2], trials[0]], digits)
    two.load_member_states(store.restore(["cc", A]).states)
    to_end(two)
    for own, original in ((0, 2), (1, 0)):
        ours, theirs = two.model.member_state(own), whole.model.member_state(original)
        for name, weights in ours.items():
            torch.testing.assert_close(weights, theirs[name], rtol=2e-3, atol=2e-4)
