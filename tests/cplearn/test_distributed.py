"""One trial on two processes equals the trial on one: gradients, statistics, weights, logged metrics, final metrics."""

from __future__ import annotations

import datetime
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image

from cplearn import data, methods
from cplearn.config.trial import TrialSettings
from cplearn.data.subset import limit
from cplearn.distributed import Ranks, synchronise
from cplearn.errors import InputError
from cplearn.training import Pack

SMALL: dict[str, dict[str, Any]] = {
    "cplearn": {"codes": 24, "embedding_dim": 8},
    "barlow_twins": {"hidden_dim": 12, "embedding_dim": 8},
    "vicreg": {"hidden_dim": 12, "embedding_dim": 8},
    "simclr": {"hidden_dim": 12, "embedding_dim": 8},
    "swav": {"hidden_dim": 12, "embedding_dim": 8, "codes": 10, "queue": 32, "queue_from_epoch": 0, "freeze_epochs": 0},
    "self_classifier": {"hidden_dim": 12, "embedding_dim": 8, "codes": 10},
    "gedi": {"hidden_dim": 12, "codes": 10},
    "dino": {"hidden_dim": 12, "embedding_dim": 8, "codes": 10, "freeze_epochs": 0},
    "supervised": {},
}
VIT = {"name": "timm", "model": "test_vit", "width": None, "drop_path": 0.4}
RESNET = {**VIT, "model": "test_resnet", "drop_path": 0.0}
CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in SMALL] + [
    ("swav", {"augment": {"local_views": 2}}),
    ("cplearn", {"method": {"codes": 2100, "embedding_dim": 8}}),  # streamed
    ("cplearn", {"optimizer": {"name": "lars", "lr": 0.1, "clip": 0.5}, "evaluation": {"online_probe": True}}),
    ("barlow_twins", {"optimizer": {"name": "lars", "lr": 0.2, "scale_lr": True}}),
    ("cplearn", {"optimizer": {"lr": 1e200}}),  # of the second member, which diverges
    ("cplearn", {"dataset": "folder:", "image_size": 16, "decode": "on-demand", "augment": {"recipe": "imagenet"}}),
    ("dino", {"dataset": "folder:", "image_size": 32, "backbone": VIT}),
    (
        "cplearn",
        {"dataset": "folder:", "image_size": 32, "backbone": RESNET},
    ),
]
DIVERGES = next(i for i, (_, changes) in enumerate(CASES) if changes == {"optimizer": {"lr": 1e200}})


def trials(name: str, changes: dict[str, Any], folder: Path) -> list[TrialSettings]:
    """Two members with streams of their own; one, where they cannot be stacked. Images of a folder are in `folder`."""
    settings: dict[str, Any] = {
        "method": {"name": name, **SMALL[name]},
        "backbone": {"name": "resnet8-slim", "width": 4},
        "batch_size": 16,
        "epochs": 2,
        "precision": "float64",
    }
    settings |= {key: value for key, value in changes.items() if key != "method"}
    settings["method"] = {**settings["method"], **changes.get("method", {})}
    if "dataset" in changes:
        settings["dataset"] = f"folder:{folder / 'images'}"
    if changes is CASES[DIVERGES][1]:
        first = {key: value for key, value in settings.items() if key != "optimizer"}
        return [TrialSettings.read(first), TrialSettings.read({**settings, "seed": 1})]
    seeds = (0,) if "model" in changes.get("backbone", {}) else (0, 1)
    return [TrialSettings.read({**settings, "seed": seed}) for seed in seeds]


def result(case: int, folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Gradients of the first step, then everything there is to know after training."""
    own = trials(*CASES[case], folder)
    dataset = limit(data.load(**own[0].data_request(), root=folder), 64, 20)
    pack = Pack(own, dataset, ranks=ranks)
    kept: list[torch.Tensor] = []
    step = pack.optimizer.step

    def first_step(lr: torch.Tensor) -> None:
        if not kept:
            kept.extend(p.grad.clone() for p in pack.optimizer.parameters if p.grad is not None)
        step(lr)

    pack.optimizer.step = first_step  # type: ignore[method-assign]
    logged = []
    while not pack.finished:
        logged += [{k: v for k, v in m.items() if "second" not in k} for _, m in pack.train_epoch()]
    alive = [k for k in range(len(own)) if k not in pack.failures]
    state = {f"{k}.{name}": t.double() for k in alive for name, t in pack.model.member_state(k).items()}
    return {"gradients": kept, "logged": logged, "state": state, "failures": dict(pack.failures)}


def work(rank: int, port: int, folder: str) -> None:
    """What each of two processes does: all cases, one after the other."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=120),
    )
    results = [result(case, Path(folder), Ranks(rank, 2)) for case in range(len(CASES))]
    torch.save(results, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images` in it."""
    folder, noise = tmp_path_factory.mktemp("ranks"), np.random.default_rng(0)
    for split, n in (("train", 32), ("test", 10)):
        for name in ("cat", "dog"):
            place = folder / "images" / split / name
            place.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(noise.integers(0, 256, (36, 40, 3), np.uint8)).save(place / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> list[list[dict[str, Any]]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_every_method_is_here() -> None:
    assert set(SMALL) == {name for name in methods.names() if methods.get(name).Settings.trains}


@pytest.mark.parametrize("case", range(len(CASES)), ids=[name for name, _ in CASES])
def test_two_processes_are_one(case: int, folder: Path, both: list[list[dict[str, Any]]]) -> None:
    """Gradients to 1e-10 of their size; weights, statistics, teachers, queues and metrics to 1e-8."""
    alone = result(case, folder, Ranks())
    assert alone["gradients"]
    for found in (own[case] for own in both):
        for gradient, expected in zip(found["gradients"], alone["gradients"], strict=True):
            assert (gradient - expected).norm() <= 1e-10 * expected.norm() + 1e-14
        assert found["failures"] == alone["failures"]
        assert found["state"].keys() == alone["state"].keys()
        for name, expected in alone["state"].items():
            torch.testing.assert_close(found["state"][name], expected, rtol=1e-8, atol=1e-8, msg=name)
        for metrics, expected in zip(found["logged"], alone["logged"], strict=True):
            assert metrics == pytest.approx(expected, rel=1e-8, abs=1e-10)


def test_processes_never_differ(both: list[list[dict[str, Any]]]) -> None:
    for one, other in zip(*both, strict=True):
        assert all(torch.equal(one["state"][name], other["state"][name]) for name in one["state"])


def test_a_member_that_diverges_stops_in_all_processes_and_the_other_goes_on(both: list[list[dict[str, Any]]]) -> None:
    for own in both:
        found = own[DIVERGES]
        assert list(found["failures"]) == [1]
        assert all(name.startswith("0.") and tensor.isfinite().all() for name, tensor in found["state"].items())


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(InputError, match="batch_size 16 cannot be split among 3 devices"):
        Ranks(0, 3).part(16)


def test_norms_that_know_nothing_of_other_processes_are_refused() -> None:
    with pytest.raises(InputError, match="layers BatchNorm2d of the backbone follow the batch of one device"):
        synchronise(torch.nn.Sequential(torch.nn.BatchNorm2d(3)), Ranks(0, 2), 8)
    synchronise(torch.nn.Sequential(torch.nn.BatchNorm2d(3)), Ranks(), 8)
