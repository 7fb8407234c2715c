"""Import of the authors' checkpoints: a file in their layout, made from torchvision's own ResNet-18."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import cplearn
import cplearn.data
from cplearn import solo
from cplearn.errors import InputError
from runner.cli import app

F, C = 24, 40


class Reference(nn.Module):
    """The model of the authors' code, as its checkpoints describe it."""

    def __init__(self, padding: int = 2) -> None:
        super().__init__()
        self.backbone = torchvision.models.resnet18()
        self.backbone.fc = nn.Identity()
        self.backbone.maxpool = nn.Identity()
        self.backbone.conv1 = nn.Conv2d(3, 64, 3, padding=padding, bias=False)
        self.projector = nn.Sequential(nn.Linear(512, F), nn.BatchNorm1d(F))
        self.classifier = nn.Linear(512, 10)
        draw = torch.Generator().manual_seed(0)
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.ndim == 1:
                tensor.data = 0.5 + torch.rand(tensor.shape, generator=draw)
            elif tensor.ndim:
                tensor.data = torch.randn(tensor.shape, generator=draw) * (2 / tensor[0].numel()) ** 0.5
        self.register_buffer("weights", torch.randint(0, 2, (F, C), generator=draw) * 2.0 - 1)

    def embeddings(self, features: Tensor) -> Tensor:
        return torch.tanh(self.projector(features))


@pytest.fixture(scope="module")
def reference() -> Reference:
    with torch.random.fork_rng():
        return Reference().eval()


@pytest.fixture
def write(tmp_path: Path, reference: Reference) -> Callable[..., Path]:
    """Writes the reference as a Lightning checkpoint, with changes to its state dict."""

    def at(change: Callable[[dict[str, Tensor]], Any] = lambda state: None, **extra: Any) -> Path:
        state = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
        change(state)
        file = {"epoch": 999, "pytorch-lightning_version": "2.0.1", "state_dict": state, "callbacks": {}, **extra}
        torch.save(file, tmp_path / "last.ckpt")
        return tmp_path / "last.ckpt"

    return at


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of 3 x 8 training and 3 x 4 test images of three tints."""
    root, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, n in (("train", 8), ("test", 4)):
        for label in range(3):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = draw.integers(0, 120, (32, 32, 3), dtype=np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return f"folder:{root}"


@pytest.mark.parametrize("padding", [1, 2])
def test_features_and_codes_are_those_of_the_original(
    write: Callable[..., Path], birds: str, tmp_path: Path, padding: int
) -> None:
    """In float64, so that only mistakes are larger than the tolerance."""
    with torch.random.fork_rng():
        original = Reference(padding).double().eval()
    checkpoint = solo.read(write(), padding)
    checkpoint.settings.update(precision="float64", batch_size=8)
    dataset = cplearn.data.load(birds, tmp_path)
    model = solo.restore(checkpoint, dataset).model
    images = dataset.test.images
    normalise = torchvision.transforms.Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
    with torch.no_grad():
        features = original.backbone(normalise(images.double() / 255))
        embeddings = original.embeddings(features)
    torch.testing.assert_close(model.features(images), features, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.embeddings(features), embeddings, rtol=1e-9, atol=1e-9)
    codes = (embeddings @ original.weights).argmax(1)
    assert torch.equal(model.codes(embeddings), codes)
    assert len(codes.unique()) > 1


def test_the_arguments_beside_a_checkpoint_become_settings(write: Callable[..., Path]) -> None:
    path = write(hyper_parameters=argparse.Namespace(lr=1e-3))
    assert solo.read(path).dataset is None
    assert solo.read(path).trial("cifar10").backbone.stem_padding == 2
    arguments = {
        "backbone": {"name": "resnet18", "kwargs": {}},
        "method_kwargs": {"beta": 0.25, "proj_output_dim": C},
        "data": {"dataset": "cifar100"},
        "optimizer": {"batch_size": 256},
        "max_epochs": 500,
    }
    (path.parent / "args.json").write_text(json.dumps(arguments))
    checkpoint = solo.read(path)
    trial = checkpoint.trial("cifar100")
    assert checkpoint.dataset == "cifar100"
    assert (trial.method.beta, trial.batch_size, trial.epochs, trial.method.form) == (0.25, 256, 500, "tanh")
    assert (trial.method.codes, trial.method.embedding_dim, trial.augment.recipe) == (C, F, "solo-cifar")
    (path.parent / "args.json").write_text('{"backbone": {"name": "vit_tiny"}}')
    with pytest.raises(InputError, match="the backbone is vit_tiny; only resnet18"):
        solo.read(path)


ODD_TENSORS: list[Callable[[], torch.Tensor]] = [
    lambda: torch.ones(F, C).to_sparse(),
    lambda: torch.ones(F, C, device="meta"),
    lambda: torch.ones(F, C).to(torch.float8_e4m3fn),
    lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    lambda: torch.ones(1).expand(10**6, 10**6),
    lambda: torch.ones(0, C),
    lambda: torch.ones(F, C, dtype=torch.complex64),
]


@pytest.mark.parametrize("arguments", ["[" * 100_000, "{", "[1]", '{"max_epochs": ' + "9" * 5_000 + "}", b"\xff"])
def test_arguments_that_are_none_are_one_sentence(write: Callable[..., Path], arguments: str | bytes) -> None:
    path = write()
    (path.parent / "args.json").write_bytes(arguments if isinstance(arguments, bytes) else arguments.encode())
    with pytest.raises(InputError, match=r"args.json: (cannot be read as JSON|expected the settings)"):
        solo.read(path)


def test_arguments_may_have_a_byte_order_mark_and_no_absurd_numbers(write: Callable[..., Path]) -> None:
    path = write()
    (path.parent / "args.json").write_text('{"max_epochs": 7}', encoding="utf-8-sig")
    assert solo.read(path).trial("cifar10").epochs == 7
    (path.parent / "args.json").write_text('{"max_epochs": ' + "9" * 400 + "}")
    with pytest.raises(InputError, match=r"epochs: must be less than 2\*\*63"):
        solo.read(path).trial("cifar10")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("weights"), "the weights 'weights' are missing"),
        (lambda s: s.pop("backbone.layer3.1.bn2.running_var"), "'backbone.layer3.1.bn2.running_var' are missing"),
        (lambda s: s.update({"projector.2.weight": torch.ones(3)}), "'projector.2.weight' have no place"),
        (lambda s: s.update({"backbone.fc.weight": torch.ones(10, 512)}), "'backbone.fc.weight' have no place"),
        (lambda s: s["weights"].mul_(0.5), "holds other numbers than 1 and -1"),
        (lambda s: s["weights"][0].fill_(float("nan")), "'weights' does not hold finite numbers"),
        (lambda s: s.update({"backbone.conv1.weight": torch.ones(64, 3, 7, 7)}), "not any x any x 3 x 3"),
        *((lambda s, odd=odd: s.update({"weights": odd()}), "'weights' is no plain tensor") for odd in ODD_TENSORS),
        (lambda s: s.update({3: torch.ones(2)}), "3 is no plain tensor"),
    ],
)
def test_other_layouts_are_one_sentence(write: Callable[..., Path], change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        solo.read(write(change))


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_code_in_a_checkpoint_is_never_run(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write(callbacks=Malicious(tmp_path / "harm"))
    with pytest.raises(InputError, match="refused, because it holds more than tensors and plain containers"):
        solo.read(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_one_sentence(write: Callable[..., Path], share: float) -> None:
    path = write()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="may be damaged"):
        solo.read(path)


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        solo.read(tmp_path / "missing.ckpt")
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(InputError, match="may be damaged"):
        solo.read(tmp_path / "text.ckpt")
    torch.save({"model": 3}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="it has no state_dict of tensors"):
        solo.read(tmp_path / "other.ckpt")


def test_the_command_evaluates_and_saves(
    write: Callable[..., Path], reference: Reference, birds: str, tmp_path: Path
) -> None:
    path, saved, roots = write(), tmp_path / "saved", ["--data-root", str(tmp_path)]
    (path.parent / "args.json").write_text('{"optimizer": {"batch_size": 8}}')
    result = CliRunner().invoke(app, ["import-solo", str(path)])
    assert result.exit_code == 2
    assert "give it with --dataset" in result.stderr
    result = CliRunner().invoke(app, ["import-solo", str(path), "-d", "digits", *roots])
    assert result.exit_code == 2
    assert "images of 3 channels, those of digits have 1" in result.stderr.replace("\n", " ")
    result = CliRunner().invoke(app, ["import-solo", str(path), "-d", birds, "--save", str(saved), *roots])
    assert result.exit_code == 0, result.output
    assert {"probe/accuracy", "knn/accuracy", "codes/ami"} <= {
        line.split(" ")[0] for line in result.stdout.splitlines()
    }
    images = cplearn.data.load(birds, tmp_path).test.images
    normalise = torchvision.transforms.Normalize(solo.MEAN, solo.STD)
    with torch.no_grad():
        features = reference.backbone(normalise(images / 255))
    torch.testing.assert_close(cplearn.load(saved).features(images), features, rtol=1e-4, atol=1e-4)
