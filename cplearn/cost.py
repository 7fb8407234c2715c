"""Operations, bytes, launches and memory of one training step, derived from a trial's settings; on paper, no measuring.

Rules of the derivation, the same for every layer:

- `flops` are those of convolutions and matrix products, a multiply and an add counted as two. A backward pass costs
  one such product for the weight and one for the input; the images need no gradient.
- `bytes` assume that every kernel reads its inputs once and writes its outputs once, with nothing left in a cache.
- `launches` are operators, each taken as one kernel, and a convolution's backward pass as two. Some operators
  (logsumexp, grouped convolutions) are several kernels, so this is a lower bound.
- `memory` is what a step holds at the end of its forward pass: weights, gradients, two moments, buffers, and the
  tensors kept for the backward pass. Temporaries and workspaces come on top.

`python -m cplearn.cost` writes the tables of docs/scaling.md.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

from cplearn.config.trial import TrialSettings
from cplearn.dictionary import codes
from cplearn.errors import InputError

VIEWS = 2
"""Views of an image; every recipe of `cplearn.augment` makes two."""

RECIPES: dict[str, dict[int, tuple[int, int]]] = {
    "digits": {1: (50, 33), 3: (50, 23)},
    "paper": {1: (114, 92), 3: (162, 111)},
    "paper-noflip": {1: (109, 87), 3: (157, 106)},
    "solo-cifar": {1: (180, 154), 3: (228, 125)},
    "imagenet": {1: (221, 176), 3: (269, 137)},
    "none": {1: (6, 7), 3: (6, 7)},
}
"""Launches of a recipe on an accelerator, and how often they read or write all views, by number of channels.

Counted once by running the recipes on torch's meta device, which takes the accelerator's path; a test repeats it."""


@dataclass(frozen=True)
class Cost:
    """One training step of all members together; see the module's rules. `bytes` and `memory` in bytes."""

    flops: float = 0
    bytes: float = 0
    launches: int = 0
    parameters: int = 0
    memory: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def step(trial: TrialSettings, channels: int, image_size: int, members: int = 1, **how: Any) -> Cost:
    """The cost of one training step of a pack of `members` such trials; `how` as in `parts`, which see for errors."""
    return total(parts(trial, channels, image_size, members, **how).values())


def total(costs: Iterable[Cost]) -> Cost:
    """Their sum, field by field."""
    return sum(costs, Cost())


def parts(
    trial: TrialSettings,
    channels: int,
    image_size: int,
    members: int = 1,
    *,
    draws: int = 1,
    stream: bool | None = None,
    accelerator: bool = True,
) -> dict[str, Cost]:
    """`step` by part: augmentation, backbone, projector, dictionary, optimizer.

    Images have `channels` (1 or 3) x `image_size` x `image_size` values. `draws` counts the different streams of
    batches and views in the pack: 1 if all members share them, else at most `members`. `stream` forces the way of
    `cplearn.dictionary.codes.losses`; `accelerator` says whose block size it streams with.

    The online probe is not counted.

    Raises InputError for what is not modelled: methods other than cplearn, backbones other than residual networks with
    a 3x3 stem, optimisers other than Adam, clipping, and mixed precision.
    """
    if trial.method.name != "cplearn":
        raise InputError(f"the cost model knows method.name 'cplearn' only, not {trial.method.name!r}", "method.name")
    if trial.precision in ("bfloat16", "float16"):
        raise InputError("the cost model knows no mixed precision; set precision to float32 or float64", "precision")
    if not trial.backbone.name.startswith("resnet") or trial.backbone.stem != "cifar":
        raise InputError("the cost model knows resnet8, resnet8-slim and resnet18 with its cifar stem", "backbone.name")
    if not trial.optimizer.name.startswith("adam") or trial.optimizer.clip is not None:
        raise InputError("the cost model knows optimizer.name adam and adamw without clipping", "optimizer.name")
    method: Any = trial.method
    net = _Net(trial, members, image_size, channels, draws)
    features = net.backbone()
    result = {
        "augmentation": _augmentation(trial, channels, image_size, members, draws),
        "backbone": net.cost,
        "projector": _projector(net, features, method),
        "dictionary": _dictionary(net, method, stream, accelerator),
    }
    learned = total(result.values()).parameters
    return result | {"optimizer": _optimizer(trial, learned, net.tensors + 3, net.weights + 1, net.item)}


class _Net:
    """Walks through the layers of `cplearn.backbones` and adds up what each costs."""

    def __init__(self, trial: TrialSettings, members: int, size: int, channels: int, draws: int) -> None:
        self.settings, self.members, self.size, self.channels = trial.backbone, members, size, channels
        self.images = trial.batch_size * VIEWS
        self.item = 8 if trial.precision == "float64" else 4
        self.cost, self.tensors, self.weights = Cost(), 0, 0
        self.inputs = channels if draws == 1 else channels * members

    def add(self, elements: float = 0, launches: int = 0, *, flops: float = 0, kept: float = 0) -> None:
        """Kernels that move `elements` numbers, of which `kept` are new and stay for the backward pass."""
        self.cost += Cost(flops, elements * self.item, launches, memory=kept * self.item)

    def own(self, parameters: int, buffers: int = 0) -> None:
        """Parameters with their gradients and moments."""
        self.cost += Cost(parameters=parameters, memory=(4 * parameters + buffers) * self.item)

    def backbone(self) -> int:
        """The number of features of each member."""
        x = self.images * self.inputs * self.size**2
        copied = self.inputs > 1  # to channels_last, which one channel is already
        self.add((6 if copied else 4) * x, 3 if copied else 2, kept=x)
        width = self.settings.width
        assert width is not None
        if self.settings.name == "resnet8":
            self.block(self.channels, width, pool=True, first=True)
            for pool in (True, False, False):
                self.block(width, width, pool=pool)
            features = width
        elif self.settings.name == "resnet18":
            self.convolution(self.channels, width, 3, padding=self.settings.stem_padding, first=True)
            self.relu(self.norm(width))
            c_in = width
            for c_out in (width, 2 * width, 4 * width, 8 * width):
                self.block(c_in, c_out, stride=1 if c_in == c_out else 2)
                self.block(c_out, c_out)
                c_in = c_out
            features = c_in
        else:
            self.convolution(self.channels, width, 3, first=True)
            y = self.norm(width)
            self.relu(y)
            self.block(width, width)
            self.block(width, 2 * width, stride=2)
            self.block(2 * width, 4 * width, stride=2)
            features = 4 * width
        # Global average pooling, and the gradient spread over its pixels.
        self.add(2 * self.activation(features), 2)
        return features

    def activation(self, width: int) -> int:
        return self.images * self.members * width * self.size**2

    def convolution(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, *, padding: int | None = None, first: bool = False
    ) -> None:
        """Changes the image size; its input is kept by whatever made it."""
        x = self.images * self.inputs * self.size**2 if first else self.activation(c_in)
        padding = kernel // 2 if padding is None else padding
        self.size = (self.size + 2 * padding - kernel) // stride + 1
        y = self.activation(c_out)
        w = self.members * c_out * c_in * kernel**2
        products = 2 if first else 3
        self.add(products * (x + w + y), products, flops=products * 2 * y * c_in * kernel**2)
        self.own(w)
        self.tensors += 1
        self.weights += 1

    def norm(self, width: int) -> int:
        """BatchNorm: forward reads and writes, backward reads input and gradient and writes; keeps its input."""
        y = self.activation(width)
        self.add(5 * y, 2, kept=y)
        self.own(2 * self.members * width, 2 * self.members * width)
        self.tensors += 2
        return y

    def relu(self, y: int) -> None:
        self.add(5 * y, 2, kept=y)

    def block(self, c_in: int, c_out: int, stride: int = 1, *, pool: bool = False, first: bool = False) -> None:
        entry, x = self.size, self.activation(c_in)
        self.convolution(c_in, c_out, 3, stride, first=first)
        self.relu(self.norm(c_out))
        self.convolution(c_out, c_out, 3)
        y = self.norm(c_out)
        if stride != 1 or c_in != c_out:
            self.size = entry
            self.convolution(c_in, c_out, 1, stride, first=first)
            self.norm(c_out)
        self.add(3 * y, 1)  # the sum of the two paths
        if not first:
            self.add(3 * x, 1)  # the sum of their gradients
        self.relu(y)
        if pool:
            self.size //= 2
            small = self.activation(c_out)
            self.add(2 * (y + small), 2, kept=small)


def _augmentation(trial: TrialSettings, channels: int, size: int, members: int, draws: int) -> Cost:
    launches, passes = RECIPES[trial.augment.recipe][channels]
    item = 8 if trial.precision == "float64" else 4
    pixels = trial.batch_size * channels * size**2
    views, gathered = pixels * VIEWS * item, 4 * draws * pixels  # one byte a pixel, gathered and joined
    # Each draw gathers its images and labels and makes numbers and strengths; four concatenations join the draws, and
    # members take their labels.
    launches += 4 * draws + 5
    if draws == 1:
        return Cost(bytes=passes * views + gathered, launches=launches)
    # Views are handed out to members, then laid side by side in the channels.
    return Cost(bytes=(passes * draws + 4 * members) * views + gathered, launches=launches + 2)


def _projector(net: _Net, features: int, method: Any) -> Cost:
    """Linear, BatchNorm and normalisation, one view at a time."""
    f, rows = method.embedding_dim, net.members * net.images
    h, x, w = rows * f, rows * features, net.members * features * f
    # Operators of a view, forward and backward, and how often they touch its embeddings.
    launches, touched = (24, 38) if method.form == "l2" else (7, 11)
    copies = 1 if net.members > 1 else 0  # members lie in the first axis here and in the channels elsewhere
    # Beside the views: stacking, dividing by τ, adding up gradients of the views, returning them to the backbone.
    elements = (touched + 4 * copies + 6) * h + (5 + 2 * copies) * x + (3 * VIEWS + 3 * (VIEWS - 1)) * w
    return Cost(
        flops=3 * 2 * h * features,
        bytes=elements * net.item,
        launches=VIEWS * (launches + 2 * copies) + 3 + 3 * (VIEWS - 1) + 1 + copies,
        parameters=w + 2 * net.members * f,
        memory=(4 * w + 10 * net.members * f + 3 * h + x) * net.item,
    )


def _dictionary(net: _Net, method: Any, stream: bool | None, accelerator: bool) -> Cost:
    """The loss over c codes, forward and backward; logits are members x views x images x c."""
    c, f = method.codes, method.embedding_dim
    if stream is None:
        stream = codes.is_streamed(c, f)
    logits, signs = net.members * net.images * c, net.members * c * f
    product = 2 * logits * f
    h = net.members * net.images * f
    if not stream:
        # Forward 10 (product 1, log-softmax 2, usage 1, cross-entropy of both orders 6), backward 35 passes over the
        # logits. Kept are log p, p, and the dictionary as floating-point numbers.
        moved = 45 * logits + 2 * h + 3 * signs
        return Cost(2 * product, moved * net.item + signs, 62, memory=(2 * logits + signs) * net.item + signs)
    blocks = math.ceil(c / block_size(net.members * net.images, accelerator=accelerator))
    # Passes over the logits of one block, some over those of a single view: 7 for the normaliser, 20.5 for loss and
    # gradient. The signs are expanded twice and read by three products, one of them twice as large, whose results, two
    # for each embedding, are added up.
    moved = 27.5 * logits + 7 * signs + (21 + 11 * blocks) * h
    return Cost(
        4 * product,
        moved * net.item + 2 * signs,
        28 + 52 * blocks,
        memory=h * net.item + signs,
    )


def block_size(rows: int, *, accelerator: bool) -> int:
    """Codes in a block of the streamed loss."""
    return max(256, (2**24 if accelerator else 2**18) // rows)


def _optimizer(trial: TrialSettings, parameters: int, tensors: int, weights: int, item: int) -> Cost:
    """Seven operators over lists of all parameters, then one update a tensor: 20 reads and writes of each number."""
    elements, launches = 20 * parameters, 9 + tensors
    if trial.optimizer.weight_decay or trial.optimizer.weight_decay_end:
        coupled = trial.optimizer.name == "adam"
        elements += (5 if coupled else 2) * parameters
        launches += weights * (2 if coupled else 3)
    return Cost(bytes=elements * item, launches=launches)


@dataclass(frozen=True)
class Device:
    """Published peaks of an accelerator: dense operations a second, bytes a second, bytes. None is our measurement."""

    name: str
    fp32: float
    tf32: float
    bf16: float
    bandwidth: float
    memory: float


# The SXM modules, without sparsity; docs/scaling.md says where the figures were read.
DEVICES = (
    Device("A100 80 GB", 19.5e12, 156e12, 312e12, 2.039e12, 80e9),
    Device("H100 80 GB", 66.9e12, 494.7e12, 989.4e12, 3.35e12, 80e9),
)


@dataclass(frozen=True)
class Times:
    """Seconds that one step takes on the host that launches, in arithmetic, and in moving bytes."""

    launch: float
    compute: float
    traffic: float

    @property
    def device(self) -> float:
        """The part that the host does not take."""
        return max(self.compute, self.traffic)

    @property
    def step(self) -> float:
        """All three overlap, so the slowest decides."""
        return max(self.launch, self.device)

    @property
    def bound(self) -> str:
        """What decides: launches, arithmetic or bytes."""
        names = {"launches": self.launch, "arithmetic": self.compute, "bytes": self.traffic}
        return max(names, key=names.__getitem__)


LAUNCH = 7.5e-6
"""Seconds a launch: the middle of the 5 to 10 microseconds that are usual for PyTorch from Python. An assumption."""

EFFICIENCY = 0.4
"""Share of the peak that convolutions and matrix products reach. An assumption, optimistic for few channels."""


def times(costs: dict[str, Cost], device: Device, launch: float = LAUNCH, efficiency: float = EFFICIENCY) -> Times:
    """Of a step by `parts`, with PyTorch's defaults: convolutions in TF32, matrix products in FP32."""
    whole, convolutions = total(costs.values()), costs["backbone"].flops
    compute = convolutions / device.tf32 + (whole.flops - convolutions) / device.fp32
    return Times(launch * whole.launches, compute / efficiency, whole.bytes / device.bandwidth)


def width_limits(
    trial: TrialSettings,
    channels: int,
    image_size: int,
    device: Device,
    *,
    share: float = 0.6,
    stream: bool | None = None,
) -> tuple[int | None, int]:
    """How wide a pack should be, and can be, on a device.

    The first is the width from which the device is busy while the host launches: beyond it, time grows with the width.
    None means not before memory ends. The second is how many members fit into `share` of the memory.
    """

    def at(members: int) -> Times:
        return times(parts(trial, channels, image_size, members, stream=stream), device)

    one, two = (step(trial, channels, image_size, k, stream=stream).memory for k in (1, 2))
    fitting = 1 + int((share * device.memory - one) / (two - one))
    busy = next((k for k in range(1, fitting + 1) if at(k).device >= at(k).launch), None)
    return busy, fitting


# What the tables of docs/scaling.md are about: settings, channels, image size.
SETUPS: dict[str, tuple[TrialSettings, int, int]] = {
    name: (TrialSettings.read({"dataset": dataset, "backbone": backbone, "method": method}), channels, size)
    for name, dataset, backbone, method, channels, size in (
        ("slim, 8x8", "digits", {"name": "resnet8-slim"}, {"codes": 2048}, 1, 8),
        ("slim, 32x32", "cifar10", {"name": "resnet8-slim"}, {"codes": 16384}, 3, 32),
        ("f = 128, 32x32", "cifar10", {"width": 128}, {"codes": 16384}, 3, 32),
        ("f = 256, 32x32", "cifar100", {"width": 256}, {"codes": 16384, "embedding_dim": 256}, 3, 32),
    )
}

# Table 1: training images and setup of each data set; nine β values, five seeds.
TABLE_1 = {
    "svhn": (73257, "f = 128, 32x32"),
    "cifar10": (50000, "f = 128, 32x32"),
    "cifar100": (50000, "f = 256, 32x32"),
}
BETAS, SEEDS = 9, 5


def _table_steps() -> str:
    rows = []
    for name, (trial, channels, size) in SETUPS.items():
        c = step(trial, channels, size)
        method: Any = trial.method
        rows.append(
            f"{name} | {method.codes:,} | {c.parameters / 1e6:.2f} | {c.flops / 1e9:.1f} | {c.bytes / 1e9:.2f} | "
            f"{c.flops / c.bytes:.0f} | {c.launches} | {c.memory / 1e6:.0f}"
        )
    head = "model and images | c | parameters (M) | GFLOP | GB moved | FLOP a byte | launches | held (MB)"
    return _markdown(head, rows)


def _table_parts() -> str:
    rows = []
    for name in ("slim, 8x8", "f = 128, 32x32"):
        for part, c in parts(*SETUPS[name]).items():
            rows.append(f"{name} | {part} | {c.flops / 1e9:.2f} | {c.bytes / 1e6:,.0f} | {c.launches}")
    return _markdown("model and images | part | GFLOP | MB moved | launches", rows)


def _table_dictionary() -> str:
    trial, _, _ = SETUPS["f = 128, 32x32"]
    rows = []
    for c in (128, 2048, 16384, 131072, 524288):
        method = trial.method.model_copy(update={"codes": c})
        cells = [f"{c:,}"]
        ways = [
            parts(trial.model_copy(update={"method": method}), 3, 32, stream=stream)["dictionary"]
            for stream in (False, True)
        ]
        cells += [f"{way.flops / 1e9:.2f}" for way in ways] + [f"{way.bytes / 1e6:,.0f}" for way in ways]
        cells += [f"{way.memory / 1e6:,.1f}" for way in ways] + [f"{way.launches}" for way in ways]
        rows.append(" | ".join(cells))
    columns = ("GFLOP", "MB moved", "MB held", "launches")
    return _markdown("c | " + " | ".join(f"{column}, {way}" for column in columns for way in ("mat.", "str.")), rows)


def _table_devices() -> str:
    rows = []
    for d in DEVICES:
        tera = [f"{x / 1e12:g}" for x in (d.fp32, d.tf32, d.bf16, d.bandwidth)]
        rows.append(" | ".join([d.name, *tera, f"{d.memory / 1e9:g}"]))
    return _markdown("SXM module | FP32 (TFLOP/s) | TF32 | BF16 | bandwidth (TB/s) | memory (GB)", rows)


def _table_regimes() -> str:
    rows = []
    for name, setup in SETUPS.items():
        for device in DEVICES:
            t = times(parts(*setup), device)
            cells = [name, device.name, *(f"{1e3 * x:.2f}" for x in (t.launch, t.compute, t.traffic, t.step)), t.bound]
            rows.append(" | ".join(cells))
    return _markdown("model and images | device | launches (ms) | arithmetic | bytes | step | bound by", rows)


def _table_widths() -> str:
    rows = []
    for name, (trial, channels, size) in SETUPS.items():
        one, two = (step(trial, channels, size, k, stream=False).memory for k in (1, 2))
        for device in DEVICES:
            busy, fitting = width_limits(trial, channels, size, device, stream=False)
            gains = [f"{gain(trial, channels, size, device, BETAS, stream):.1f}" for stream in (False, True)]
            cells = [name, device.name, "none" if busy is None else f"{busy}", *gains]
            rows.append(" | ".join([*cells, f"{(two - one) / 1e6:,.0f}", f"{fitting:,}"]))
    head = "model and images | device | K* | gain at 9, mat. | gain at 9, str. | MB a member | K by memory"
    return _markdown(head, rows)


def gain(
    trial: TrialSettings, channels: int, size: int, device: Device, members: int, stream: bool | None = None
) -> float:
    """Time of members one after the other over their time as one pack."""
    lone, pack = (times(parts(trial, channels, size, k, stream=stream), device).step for k in (1, members))
    return members * lone / pack


def _table_budget() -> str:
    rows = []
    for epochs in (20, 200):
        for label, replaced in (("resnet8", None), ("slim", "slim, 32x32")):
            for device in DEVICES:
                cells = [f"{epochs}", label, device.name]
                for members, stream in ((1, False), (BETAS, False), (BETAS, True)):
                    low, high = (_budget(epochs, device, members, stream, launch, replaced) for launch in (5e-6, 10e-6))
                    hours = dict.fromkeys(f"{seconds / 3600:.1f}" for seconds in (low, high))
                    cells.append(" to ".join(hours))
                rows.append(" | ".join(cells))
    return _markdown("epochs | backbone | device | alone, mat. (h) | packs of 9, mat. (h) | packs of 9, str. (h)", rows)


def _budget(
    epochs: int, device: Device, members: int, stream: bool | None, launch: float, replaced: str | None
) -> float:
    """Seconds of training for Table 1 with `members` in each pack; `replaced` trains another setup instead."""
    seconds = 0.0
    for images, name in TABLE_1.values():
        trial, channels, size = SETUPS[replaced or name]
        packs = BETAS * SEEDS // members
        costs = parts(trial, channels, size, members, stream=stream)
        seconds += packs * epochs * (images // trial.batch_size) * times(costs, device, launch).step
    return seconds


TABLES = {
    "steps": _table_steps,
    "parts": _table_parts,
    "dictionary": _table_dictionary,
    "devices": _table_devices,
    "regimes": _table_regimes,
    "widths": _table_widths,
    "budget": _table_budget,
}


def _markdown(head: str, rows: Iterable[str]) -> str:
    rule = "|".join("---" for _ in head.split(" | "))
    return "\n".join([f"| {head} |", f"|{rule}|", *(f"| {row} |" for row in rows)]) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Write the named tables, by default all, to standard output as markdown."""
    parser = argparse.ArgumentParser(prog="python -m cplearn.cost", description="The cost model's tables.")
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"any of {', '.join(TABLES)}; default: all")
    chosen = parser.parse_args(arguments).tables or list(TABLES)
    unknown = [name for name in chosen if name not in TABLES]
    if unknown:
        parser.error(f"no table {unknown[0]!r}; choose from {', '.join(TABLES)}")
    sys.stdout.write("\n".join(TABLES[name]() for name in chosen))


if __name__ == "__main__":
    main()
