"""One trial on two processes equals the trial on one: gradients, statistics, weights, logged metrics, final metrics."""

from __future__ import annotations

import copy
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
from cplearn.data.dataset import limit
from cplearn.distributed import Ranks, SharedBatchNorm, synchronise
from cplearn.errors import InputError
from cplearn.training import TrialTraining

SMALL: dict[str, dict[str, Any]] = {
    "cplearn": {"codes": 24, "embedding_dim": 8},
    "barlow_twins": {"hidden_dim": 12, "embedding_dim": 8},
    "vicreg": {"hidden_dim": 12, "embedding_dim": 8},
    "simclr": {"hidden_dim": 12, "embedding_dim": 8},
    "swav": {"hidden_dim": 12, "embedding_dim": 8, "codes": 10, "queue": 32, "queue_from_epoch": 0, "freeze_epochs": 0},
    "self_classifier": {"hidden_dim": 12, "embedding_dim": 8, "codes": 10},
    "gedi": {"hidden_dim": 12, "codes": 10},
    "dino": {"hidden_dim": 12, "embedding_dim": 8, "codes": 10, "freeze_epochs": 0},
    **{name: {"hidden_dim": 12, "embedding_dim": 8} for name in ("byol", "lejepa", "mmcr", "simdino", "simsiam")},
    "supervised": {},
}
VIT = {"name": "timm", "model": "test_vit", "width": None, "drop_path": 0.4}
RESNET = {**VIT, "model": "test_resnet", "drop_path": 0.0}
CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in SMALL] + [
    ("swav", {"augment": {"local_views": 2}}),
    ("lejepa", {"augment": {"local_views": 2}}),
    ("cplearn", {"method": {"codes": 2100, "embedding_dim": 8}}),  # streamed
    ("cplearn", {"optimizer": {"name": "lars", "lr": 0.1, "clip": 0.5}, "evaluation": {"online_probe": True}}),
    ("barlow_twins", {"optimizer": {"name": "lars", "lr": 0.2, "scale_lr": True}}),
    ("cplearn", {"optimizer": {"lr": 1e200}}),  # it diverges
    ("cplearn", {"dataset": "folder:", "image_size": 16, "decode": "on-demand", "augment": {"recipe": "imagenet"}}),
    ("dino", {"dataset": "folder:", "image_size": 32, "backbone": VIT}),
    (
        "cplearn",
        {"dataset": "folder:", "image_size": 32, "backbone": RESNET},
    ),
]
DIVERGES = next(i for i, (_, changes) in enumerate(CASES) if changes == {"optimizer": {"lr": 1e200}})


def trial(name: str, changes: dict[str, Any], folder: Path) -> TrialSettings:
    """A small trial; images of a folder are in `folder`."""
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
    return TrialSettings.read(settings)


def result(case: int, folder: Path, ranks: Ranks) -> dict[str, Any]:
    """Gradients of the first step, then everything there is to know after training."""
    settings = trial(*CASES[case], folder)
    dataset = limit(data.load(**settings.data_request(), root=folder), 32, 20)
    training = TrialTraining(settings, dataset, ranks=ranks)
    gradients: list[torch.Tensor] = []

    def keep(optimizer: torch.optim.Optimizer, *arguments: Any) -> None:
        if not gradients:
            parameters = (p for group in optimizer.param_groups for p in group["params"])
            gradients.extend(p.grad.clone() for p in parameters if p.grad is not None)

    training.optimizer.register_step_pre_hook(keep)
    logged = []
    while not training.finished:
        logged.append({k: v for k, v in training.train_epoch().items() if "second" not in k})
    state = training.state_dict()["model"] if training.failure is None else {}
    return {"gradients": gradients, "logged": logged, "state": state, "failure": training.failure}


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
    assert (alone["failure"] is not None) == (case == DIVERGES)
    for shared in (process[case] for process in both):
        for gradient, expected in zip(shared["gradients"], alone["gradients"], strict=True):
            assert (gradient - expected).norm() <= 1e-10 * expected.norm() + 1e-14
        assert shared["failure"] == alone["failure"]
        assert shared["state"].keys() == alone["state"].keys()
        for name, expected in alone["state"].items():
            torch.testing.assert_close(shared["state"][name], expected, rtol=1e-8, atol=1e-8, msg=name)
        for metrics, expected in zip(shared["logged"], alone["logged"], strict=True):
            # The rank is of singular values that are roots of a Gram matrix's, so half of their digits are lost.
            rank = {name: value for name, value in expected.items() if name == "train/effective_rank"}
            assert {name: metrics[name] for name in rank} == pytest.approx(rank, rel=1e-6)
            assert {**metrics, **rank} == pytest.approx(expected, rel=1e-8, abs=1e-10)


def test_processes_never_differ(both: list[list[dict[str, Any]]]) -> None:
    for first, second in zip(*both, strict=True):
        assert all(torch.equal(first["state"][name], second["state"][name]) for name in first["state"])


def test_a_batch_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(InputError, match="batch_size 16 cannot be split among 3 devices"):
        Ranks(0, 3).part(16)


def test_norms_that_know_nothing_of_other_processes_are_refused() -> None:
    unusual = torch.nn.Sequential(torch.nn.BatchNorm2d(3, affine=False))
    with pytest.raises(InputError, match="layers BatchNorm2d of the backbone follow the batch of one device"):
        synchronise(unusual, Ranks(0, 2), 8)
    synchronise(unusual, Ranks(), 8)


def test_a_shared_norm_of_one_process_is_torchs() -> None:
    norm, draw = torch.nn.BatchNorm2d(3).double(), torch.Generator().manual_seed(0)
    shared = SharedBatchNorm(copy.deepcopy(norm), Ranks())
    x = torch.randn(4, 3, 5, 5, generator=draw, dtype=torch.float64)
    for module in (norm, shared):
        module.weight.data = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    torch.testing.assert_close(shared(x), norm(x))
    assert shared.state_dict().keys() == norm.state_dict().keys()
    for name, expected in norm.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], expected)
    torch.testing.assert_close(shared.eval()(x), norm.eval()(x))
    assert torch.autograd.gradcheck(shared.train(), x[:2, :, :2, :2].clone().requires_grad_())
