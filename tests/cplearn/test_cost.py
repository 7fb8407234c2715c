"""The cost model against the real models: counted operations, parameters, launches, bytes and memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cplearn import augment, cost, optim, training
from cplearn.config.trial import TrialSettings
from cplearn.data import Split, load
from cplearn.dictionary import codes
from cplearn.errors import InputError
from cplearn.methods.base import Batch, Progress
from cplearn.model import Model

N = 8
SLIM, CONSTANT = {"name": "resnet8-slim", "width": 8}, {"name": "resnet8", "width": 12}
EIGHTEEN = {"name": "resnet18", "width": 4}
SHAPES = [
    (SLIM, 1, 8),
    (SLIM, 3, 12),
    (CONSTANT, 1, 8),
    (CONSTANT, 3, 12),
    (EIGHTEEN, 3, 12),
    ({**EIGHTEEN, "stem_padding": 2}, 1, 8),
]
# So many codes are streamed, on a CPU in three blocks.
HEADS = [{"codes": 96, "embedding_dim": 16}, {"codes": 96, "embedding_dim": 16, "form": "tanh"}]
STREAMED = [{**head, "codes": 40_000} for head in HEADS]


def trial(backbone: dict[str, Any], method: dict[str, Any], **settings: Any) -> TrialSettings:
    data = {"backbone": backbone, "method": {"name": "cplearn", **method}, "batch_size": N, **settings}
    return TrialSettings.read(data)


class Operators(TorchDispatchMode):
    """Counts operators and the bytes that they read and write, by the rules of `cplearn.cost`."""

    # fmt: off
    IDLE = frozenset({
        "view", "_unsafe_view", "detach", "t", "transpose", "permute", "expand", "unsqueeze", "squeeze", "slice",
        "select", "as_strided", "alias", "unbind", "split", "split_with_sizes", "unflatten", "reshape", "chunk",
        "diagonal", "flatten", "expand_as", "view_as", "empty", "empty_like", "empty_strided", "new_empty",
        "new_empty_strided",
    })
    # fmt: on

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in self.IDLE or (name == "to" and out is args[0]):
            return out
        self.launches += 1
        if not name.startswith(("new_", "zeros_like", "ones_like")):
            self.bytes += size((args, {key: value for key, value in (kwargs or {}).items() if key != "out"}))
        self.bytes += size(args[0]) if name.endswith("_") else size(out)
        if name == "convolution_backward" and args[-1][0]:
            # The gradients of input and weight are two kernels, and both read that of the output.
            self.launches += 1
            self.bytes += size(args[0])
        return out


def size(tree: Any) -> int:
    """Bytes of the different tensors in a tree; an expanded tensor is no larger than its storage."""
    tensors = {id(t): t for t in tree_leaves(tree) if isinstance(t, Tensor)}
    return sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in tensors.values())


def run(settings: TrialSettings, channels: int, side: int, members: int = 1, mode: Any = Operators) -> list[Any]:
    """One step under `mode`: [backbone forward, method in both directions, backbone backward, optimiser], the model."""
    trials = [settings.model_copy(update={"seed": seed}) for seed in range(members)]
    images = {"channels": channels, "image_size": side, "mean": 0.4, "std": 0.2, "classes": ["a"]}
    model = Model(trials, images).to(memory_format=torch.channels_last).train()
    optimizer = optim.build([t.optimizer for t in trials], model.parameters(), steps=2)
    views = torch.rand(cost.VIEWS * N, channels, side, side, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(members, N, dtype=torch.long)
    modes = [mode() for _ in range(4)]
    with modes[0]:
        features = model.backbone(model.prepare(views)).unflatten(1, (-1, N))
    cut = features.detach().requires_grad_()
    # As on an accelerator, where oneDNN has no part in products.
    with modes[1], torch.backends.mkldnn.flags(enabled=False):
        loss, _ = model.method(Batch(cut, labels, Progress(0, 1, 1)))
        loss.sum().backward()
    with modes[2]:
        features.backward(cut.grad)
    with modes[3]:
        optimizer.step(torch.full((members,), 1e-3))
    return [*modes, model]


def flops(counters: Iterable[FlopCounterMode]) -> int:
    return sum(counter.get_total_flops() for counter in counters)


def flop_counter() -> FlopCounterMode:
    # torch counts out-of-place products only.
    return FlopCounterMode(
        display=False,
        custom_mapping={
            torch.ops.aten.addmm_: lambda own, a, b, **rest: 2 * a[0] * a[1] * b[1],
            torch.ops.aten.baddbmm_: lambda own, a, b, **rest: 2 * a[0] * a[1] * a[2] * b[2],
        },
    )


@pytest.mark.parametrize("method", [*HEADS, *STREAMED])
@pytest.mark.parametrize(("backbone", "channels", "side"), SHAPES)
def test_operations_and_parameters_are_exact(backbone: dict, channels: int, side: int, method: dict) -> None:
    settings = trial(backbone, method)
    *counters, model = run(settings, channels, side, mode=flop_counter)
    found = cost.step(settings, channels, side)
    assert found.flops == flops(counters)
    assert found.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("backbone", [SLIM, CONSTANT])
def test_a_pack_costs_its_members(backbone: dict) -> None:
    """torch's count of a grouped convolution's backward pass is K times too high, so only the forward is compared."""
    settings = trial(backbone, HEADS[0])
    one, three = (cost.step(settings, 3, 8, k) for k in (1, 3))
    assert (three.flops, three.parameters) == (3 * one.flops, 3 * one.parameters)
    forward = [run(settings, 3, 8, k, flop_counter)[0].get_total_flops() for k in (1, 3)]
    assert forward[1] == 3 * forward[0]


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("method", [*HEADS, *STREAMED])
@pytest.mark.parametrize(("backbone", "channels", "side"), SHAPES)
def test_launches_are_exact_and_bytes_nearly(
    backbone: dict, channels: int, side: int, method: dict, members: int
) -> None:
    settings = trial(backbone, method)
    forward, head, backward, optimizer, _ = run(settings, channels, side, members)
    found = cost.parts(settings, channels, side, members, accelerator=False)
    both = found["projector"] + found["dictionary"]
    assert found["backbone"].launches == forward.launches + backward.launches
    assert both.launches == head.launches
    assert found["optimizer"].launches == optimizer.launches
    assert found["backbone"].bytes == pytest.approx(forward.bytes + backward.bytes, rel=0.05)
    assert both.bytes == pytest.approx(head.bytes, rel=0.10)
    assert found["optimizer"].bytes == pytest.approx(optimizer.bytes, rel=0.01)


@pytest.mark.parametrize("options", [{"prior": "forward"}, {"symmetric": False}])
@pytest.mark.parametrize("method", [HEADS[0], STREAMED[0]])
def test_variants_of_the_loss_cost_about_the_same(method: dict, options: dict) -> None:
    settings = trial(SLIM, method | options)
    found = cost.step(settings, 1, 8, accelerator=False)
    counted = sum(mode.launches for mode in run(settings, 1, 8)[:4])
    assert found.launches - cost.parts(settings, 1, 8)["augmentation"].launches == pytest.approx(counted, rel=0.15)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "adam", "weight_decay": 0.1},
        {"name": "adamw", "weight_decay": 0.1},
        {"name": "adamw", "weight_decay_end": 0.1},
    ],
)
def test_weight_decay_costs_more(optimizer: dict) -> None:
    settings = trial(SLIM, HEADS[0], optimizer=optimizer)
    counted = run(settings, 1, 8)[3]
    found = cost.parts(settings, 1, 8)["optimizer"]
    assert found.launches == counted.launches
    assert found.bytes == pytest.approx(counted.bytes, rel=0.02)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", augment.names())
def test_augmentation_on_the_path_of_an_accelerator(name: str, channels: int) -> None:
    recipe, side = augment.recipe(name), 8 if channels == 1 else 32
    assert len(recipe.views) == cost.VIEWS
    images = torch.zeros(N, channels, side, side, dtype=torch.uint8, device="meta")
    draws = recipe.sample(N, side, torch.Generator().manual_seed(0))
    draws = augment.Draws(*(numbers.to("meta") for numbers in draws))
    with Operators() as counted:
        views = recipe.apply(images, draws)
    launches, passes = cost.RECIPES[name][channels]
    assert launches == pytest.approx(counted.launches, rel=0.05)
    assert passes == pytest.approx(counted.bytes / views.nbytes, rel=0.10)


@pytest.mark.parametrize("method", [*HEADS, {"codes": 2048}, {"codes": 40_000}])
@pytest.mark.parametrize("backbone", [SLIM, CONSTANT, EIGHTEEN, {"name": "resnet8-slim"}])
def test_memory_is_what_a_real_step_keeps(backbone: dict, method: dict) -> None:
    settings = trial(backbone, method)
    measured = training.footprint(settings, load("digits")).memory
    assert cost.step(settings, 1, 8).memory == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("draws", [1, 3])
def test_launches_around_the_augmentation(draws: int) -> None:
    """Gathering a batch, drawing numbers and handing views out; the recipe of no transforms is alike on a CPU."""
    settings = trial(SLIM, HEADS[0], augment={"recipe": "none"})
    trials = [settings.model_copy(update={"seed": k % draws}) for k in range(3)]
    images = torch.zeros(2 * N, 3, 32, 32, dtype=torch.uint8)
    split = Split(images, torch.zeros(2 * N, dtype=torch.long))
    batches = training._Views(trials, split, torch.device("cpu")).epoch(0)
    next(batches)  # orders are drawn once an epoch
    with Operators() as counted:
        next(batches)
    found = cost.parts(settings, 3, 32, 3, draws=draws)["augmentation"]
    assert found.launches == counted.launches
    assert found.bytes == pytest.approx(counted.bytes, rel=0.10)


def test_double_precision_moves_twice_the_bytes() -> None:
    single, double = (cost.step(trial(SLIM, HEADS[0], precision=p), 3, 8) for p in ("float32", "float64"))
    assert double.bytes == pytest.approx(2 * single.bytes, rel=0.01)
    assert (double.flops, double.launches) == (single.flops, single.launches)


@pytest.mark.parametrize("rows", [2, 128, 10**6])
def test_blocks_are_those_of_the_loss(rows: int) -> None:
    # Only the device's type is asked for, so no accelerator is needed.
    for kind in ("cpu", "cuda"):
        assert cost.block_size(rows, accelerator=kind == "cuda") == codes._block_size(rows, torch.device(kind))


def test_separate_draws_cost_their_augmentation() -> None:
    settings = trial(SLIM, HEADS[0])
    shared, own = (cost.parts(settings, 3, 8, 4, draws=d) for d in (1, 4))
    assert own["augmentation"].bytes > 4 * shared["augmentation"].bytes
    assert own["backbone"].flops == shared["backbone"].flops


def test_time_is_that_of_the_slowest() -> None:
    device = cost.Device("toy", fp32=1.0, tf32=10.0, bf16=0.0, bandwidth=100.0, memory=0.0)
    costs = {"backbone": cost.Cost(flops=40, bytes=100, launches=3), "dictionary": cost.Cost(flops=2, launches=1)}
    found = cost.times(costs, device, launch=1.0, efficiency=0.5)
    assert (found.launch, found.compute, found.traffic) == (4, 12, 1)
    assert (found.step, found.bound) == (12, "arithmetic")
    assert cost.times(costs, device, launch=9.0).bound == "launches"


@pytest.mark.parametrize("device", cost.DEVICES)
def test_width_is_where_the_device_becomes_busy(device: cost.Device) -> None:
    setup = cost.SETUPS["slim, 8x8"]
    busy, fitting = cost.width_limits(*setup, device)
    assert busy is not None
    before, at = (cost.times(cost.parts(*setup, k), device) for k in (busy - 1, busy))
    assert before.bound == "launches"
    assert at.bound != "launches"
    below, above = (cost.step(*setup, k).memory for k in (fitting, fitting + 1))
    assert below <= 0.6 * device.memory < above


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"method": "untrained"}, "method.name"),
        ({"method": "cplearn", "precision": "bfloat16"}, "precision"),
        ({"backbone": {"name": "timm", "model": "test_vit"}}, "backbone.name"),
        ({"backbone": {"name": "resnet18", "stem": "imagenet"}}, "backbone.name"),
        ({"optimizer": {"name": "lars"}}, "optimizer.name"),
        ({"optimizer": {"clip": 1.0}}, "optimizer.name"),
    ],
)
def test_what_is_not_modelled_is_refused(settings: dict, key: str) -> None:
    with pytest.raises(InputError) as raised:
        cost.step(TrialSettings.read(settings), 1, 8)
    assert raised.value.key == key


def test_the_command_writes_every_table_and_the_document_has_them(root: Path) -> None:
    command = [sys.executable, "-m", "cplearn.cost"]
    out = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    document = (root / "docs" / "scaling.md").read_text()
    tables = out.rstrip("\n").split("\n\n")
    assert len(tables) == len(cost.TABLES)
    for name, table in zip(cost.TABLES, tables, strict=True):
        assert table in document, f"docs/scaling.md lacks the current table {name}; see python -m cplearn.cost {name}"


def test_the_command_refuses_an_unknown_table(capsys: pytest.CaptureFixture[str]) -> None:
    cost.main(["devices"])
    assert capsys.readouterr().out.startswith("| SXM module |")
    with pytest.raises(SystemExit) as raised:
        cost.main(["device"])
    assert raised.value.code == 2
    assert "no table 'device'" in capsys.readouterr().err
