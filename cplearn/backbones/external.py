"""Backbones by others: any model of timm, by name, and those of modules from outside (`cplearn.outside`)."""

import difflib
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cplearn import outside
from cplearn.config.groups import BackboneSettings
from cplearn.distributed import Ranks, synchronise
from cplearn.errors import InputError

# timm takes seconds to import, which only the trials that name it should pay.


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, zeroes its input for each image with probability `rate`.

    What stays is divided by 1 - `rate`. The draws come from `generator`; without one nothing is dropped, as in a copy
    of the network that only averages the weights of another.
    """

    def __init__(self, rate: float, rescale: bool) -> None:
        super().__init__()
        self.rate, self.rescale = rate, rescale
        self.generator: torch.Generator | None = None
        self.ranks, self.batch_size = Ranks(), 0

    def join(self, ranks: Ranks, batch_size: int) -> None:
        """Draw as for the whole batch of `batch_size` images, of which this process has a part."""
        self.ranks, self.batch_size = ranks, batch_size

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, ...); returns the same shape."""
        if not self.training or self.generator is None or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = torch.empty(len(x) * self.ranks.size, dtype=x.dtype, device=x.device)
        mask.bernoulli_(keep, generator=self.generator)
        if self.ranks.size > 1:
            # Views lie one after the other, each with the images of the batch in order.
            mask = mask.view(-1, self.batch_size)[:, self.ranks.part(self.batch_size)].flatten()
        mask = mask.view(-1, *[1] * (x.ndim - 1))
        return x * (mask.div_(keep) if self.rescale else mask)


class TimmModel(nn.Module):
    """A timm model without its classifier: (N, C, H, W) to pooled features (N, F).

    Its initial weights come from `generator` alone; `size_options` are those of `timm.create_model` that depend on the
    images' size. Vision transformers interpolate their position embedding, so that smaller crops than `image_size` are
    accepted. Raises InputError if timm refuses the settings.
    """

    def __init__(self, settings: BackboneSettings, channels: int, image_size: int, generator: torch.Generator) -> None:
        import timm

        super().__init__()
        with _drawing_from(generator):
            network: Any
            network, self.size_options = _create(settings, channels, image_size)
        # timm's stochastic depth draws from the global generator, ours does not.
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, timm.layers.DropPath):
                    setattr(module, name, DropPath(child.drop_prob or 0.0, child.scale_by_keep))
        self.network: nn.Module = network
        # Where the pooled features pass through a further layer, these differ in number from `num_features`.
        self.features: int = getattr(network, "head_hidden_size", None) or network.num_features

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def build(settings: BackboneSettings, channels: int, image_size: int, generator: torch.Generator) -> Any:
    """A model of timm, or what `build(settings, channels, image_size)` of a module from outside returns, with the
    attribute `features`; its initial weights come from `generator` alone. Raises InputError where there is none."""
    if settings.name == "timm":
        return TimmModel(settings, channels, image_size, generator)
    module = outside.module(outside.BACKBONES, settings.name, "backbone.name", ["build"])
    with _drawing_from(generator):
        try:
            network = module.build(settings, channels, image_size)
        except Exception as error:
            raise _refusal(settings, image_size, error) from error
    if not isinstance(getattr(network, "features", None), int):
        reason = "must have the number of its features as the attribute 'features'"
        raise InputError(f"backbone.name {settings.name!r}: what its build returns {reason}", "backbone.name")
    return network


@contextmanager
def _drawing_from(generator: torch.Generator) -> Iterator[None]:
    """In the block torch's global generator, on the CPU, draws what follows from `generator`; its state is put back."""
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device="cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def drop_from(backbone: nn.Module, generator: torch.Generator) -> None:
    """Let stochastic depth, where a backbone has it, draw from `generator`, which lives on the backbone's device."""
    for layer in backbone.modules():
        if isinstance(layer, DropPath):
            layer.generator = generator


def _create(settings: BackboneSettings, channels: int, image_size: int) -> tuple[nn.Module, dict[str, Any]]:
    """The model, and the options by which timm was told the images' size."""
    import timm

    name, models = settings.model, timm.list_models()
    if name not in models:
        near = difflib.get_close_matches(str(name), models, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "; timm.list_models() lists all"
        raise InputError(f"backbone.model {name!r} is no model of timm {timm.__version__}{hint}", "backbone.model")
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0, "in_chans": channels}
    if settings.drop_path:
        options["drop_path_rate"] = settings.drop_path
    sizes: list[dict[str, Any]] = [{}]
    if timm.models.get_pretrained_cfg(name).fixed_input_size:
        # Only some of the models that are made for one size also take others later.
        sizes = [{"img_size": image_size, "dynamic_img_size": True}, {"img_size": image_size}]
    for size in sizes:
        try:
            return timm.create_model(name, **options, **size), size
        except TypeError as error:
            refused = error
        except Exception as error:
            raise _refusal(settings, image_size, error) from error
    if "drop_path_rate" in str(refused):
        raise InputError(f"backbone.drop_path: {name} has no stochastic depth; leave it at 0", "backbone.drop_path")
    raise _refusal(settings, image_size, refused) from refused


@functools.cache
def check(
    settings: BackboneSettings, channels: int, image_size: int, crops: tuple[int, ...], shared: bool = False
) -> None:
    """Raise InputError unless the model exists and works, forward and backward, on images and crops; and, if it is to
    be `shared`, in several processes."""
    backbone = build(settings, channels, image_size, torch.Generator().manual_seed(0)).train()
    with torch.random.fork_rng(devices=[]):
        before = torch.get_rng_state()
        for size in (image_size, *crops):
            try:
                features = backbone(torch.zeros(2, channels, size, size))
                if features.shape != (2, backbone.features):
                    raise ValueError(f"it gives {tuple(features.shape)} for 2 images, not (2, {backbone.features})")
                features.sum().backward()
            except Exception as error:
                raise _refusal(settings, size, error) from error
        drew = not torch.equal(torch.get_rng_state(), before)
    if drew:
        raise _about(settings, "draws random numbers that no seed of a trial controls; choose another")
    if shared:
        synchronise(backbone, Ranks(0, 2), 2)


def _refusal(settings: BackboneSettings, image_size: int, error: Exception) -> InputError:
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return _about(settings, f"cannot take images of {image_size} pixels with these settings ({reason})")


def _about(settings: BackboneSettings, what: str) -> InputError:
    """What is wrong with the model, after the setting that names it and its name."""
    key, name = ("backbone.model", settings.model) if settings.name == "timm" else ("backbone.name", settings.name)
    return InputError(f"{key} {name} {what}", key)
