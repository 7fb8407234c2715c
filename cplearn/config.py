"""What defines one trial: every setting that can change its numbers, with a type, a default and a sentence.

Settings that only say *where* a trial runs (device, workers, packing) live with the runner: they must not enter a
trial's identity. `Trial.canonical` is the plain dict from which that identity is computed.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator

from cplearn import methods
from cplearn.data import catalogue
from cplearn.errors import InputError

NUMERICS = 1
"""Version of the training numerics, a part of every trial's identity. Raise it when a change makes equal settings give
other numbers, a changed default included; finished trials of an older version are then no longer reused."""


class PerMember:
    """Marks a number in which the members of one pack may differ; all other settings they must share."""


def _whole(value: object) -> object:
    # `1e2` is a float in YAML; as a count it is as good as 100.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


class Settings(BaseModel):
    """A group of settings: unknown keys, wrong types, NaN and infinity are refused; instances never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class MethodSettings(Settings):
    """Settings of a self-supervised method; each module in `cplearn.methods` extends it."""

    trains: ClassVar[bool] = True

    name: str = Field(description="Method, the name of its module in cplearn/methods.")

    def check_batch(self, batch_size: int) -> None:
        """Raise InputError where these settings cannot work with `batch_size` images a step."""


class Backbone(Settings):
    name: Literal["resnet8", "resnet8-slim", "pixels"] = Field(
        "resnet8", description="resnet8: constant width; resnet8-slim: widths w, 2w, 4w; pixels: the raw image."
    )
    width: Whole | None = Field(
        None, ge=1, description="Channels of the first stage; by default 128 for resnet8 and 32 for resnet8-slim."
    )

    @model_validator(mode="before")
    @classmethod
    def _default_width(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("width") is None:
            width = {"resnet8": 128, "resnet8-slim": 32}.get(str(data.get("name", "resnet8")))
            return {**data, "width": width}
        return data


class Augment(Settings):
    recipe: Literal["digits", "paper", "paper-noflip", "solo-cifar", "none"] = Field(
        "paper", description="Named list of transforms; the default depends on the data set."
    )
    strength: Annotated[float, PerMember()] = Field(
        1.0, ge=0, le=2, description="Scales the parameter ranges of every random transform; 0 turns them off."
    )


class Optimizer(Settings):
    name: Literal["adam", "adamw"] = Field(
        "adam", description="adam adds weight decay to the gradient, adamw does not."
    )
    lr: Annotated[float, PerMember()] = Field(1e-3, gt=0, description="Peak learning rate.")
    weight_decay: Annotated[float, PerMember()] = Field(0.0, ge=0, description="Weight decay of weights, not of norms.")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="Learning rate after the warm-up.")
    warmup_epochs: Annotated[float, PerMember()] = Field(0.0, ge=0, description="Epochs of linear warm-up.")
    warmup_lr: Annotated[float, PerMember()] = Field(
        3e-5, ge=0, description="Learning rate at the start of the warm-up."
    )


class Evaluation(Settings):
    probe_c: float = Field(1.0, gt=0, description="Inverse L2 penalty of the linear probe (scikit-learn's C).")
    knn_neighbours: Whole = Field(20, ge=1, description="k of the k-NN classifier.")
    knn_temperature: float = Field(0.07, gt=0, description="Temperature of the k-NN vote.")
    kmeans_restarts: Whole = Field(10, ge=1, description="k-means runs; the one with the lowest inertia counts.")


class Trial(Settings):
    """One training and its evaluation."""

    dataset: str = Field("digits", description="digits, svhn, cifar10, cifar100 or folder:PATH.")
    image_size: Whole | None = Field(
        None,
        ge=4,
        le=1024,
        description="Side in pixels to which images of a folder are resized; default: their own, if equal.",
    )
    method: SerializeAsAny[MethodSettings] = Field(description="Method and its settings; method.name chooses it.")
    backbone: Backbone = Field(
        Backbone(), description="Network whose features are kept; default depends on the data set."
    )
    augment: Augment = Field(Augment(), description="How the two views of an image are made.")
    optimizer: Optimizer = Field(Optimizer(), description="Optimiser and learning-rate schedule.")
    evaluation: Evaluation = Field(Evaluation(), description="Protocol on the frozen backbone.")
    epochs: Whole = Field(20, ge=0, description="Passes over the training images.")
    batch_size: Whole = Field(64, ge=2, description="Images a step; incomplete batches are dropped.")
    precision: Literal["float32", "float64", "bfloat16"] = Field(
        "float32", description="float64 is for verification; bfloat16 is autocast on float32 weights."
    )
    seed: Annotated[Whole, PerMember()] = Field(
        0, ge=0, lt=2**32, description="Seed of every random draw of the trial."
    )
    common_random_numbers: bool = Field(
        True,
        description="Trials of one seed share batches, views, initial weights and dictionary: they compare pairwise.",
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve_defaults(cls, data: Any) -> Any:
        """Write out what depends on data set or method, so that written and omitted defaults are the same trial."""
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        data["method"] = _read_method(data.get("method", "cplearn"))
        entry = (
            catalogue.entry(data.get("dataset", "digits")) if isinstance(data.get("dataset", "digits"), str) else None
        )
        if entry:
            backbone, augment = data.get("backbone", {}), data.get("augment", {})
            if isinstance(backbone, Mapping):
                data["backbone"] = {**entry.backbone, **backbone} if "name" not in backbone else backbone
            if isinstance(augment, Mapping):
                data["augment"] = {"recipe": entry.recipe, **augment}
        if not data["method"].trains:
            # What cannot matter must not tell two trials apart.
            data["epochs"] = 0
            for key in ("augment", "optimizer", "batch_size", "common_random_numbers"):
                data.pop(key, None)
        return data

    @model_validator(mode="after")
    def _check_together(self) -> Trial:
        if self.method.trains:
            if self.backbone.name == "pixels":
                raise InputError(
                    "backbone.name 'pixels' has nothing to train; use it with method.name 'untrained'",
                    key="backbone.name",
                )
            self.method.check_batch(self.batch_size)
        if self.optimizer.warmup_epochs > self.epochs and self.method.trains and self.epochs:
            raise InputError(
                f"optimizer.warmup_epochs {self.optimizer.warmup_epochs:g} is longer than epochs {self.epochs}",
                key="optimizer.warmup_epochs",
            )
        return self

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Trial:
        """The trial of a nested dict of settings.

        Raises InputError with the dotted key, the bad value, and for an unknown key the nearest known one.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _explain(error, data) from None

    def canonical(self) -> dict[str, Any]:
        """The nested plain dict with every setting written out; `Trial.read` makes an equal trial of it."""
        return self.model_dump(mode="json")

    def flat(self) -> dict[str, Any]:
        """The settings under dotted keys, `method.beta` for instance."""
        return dict(_flatten(self.canonical()))

    def identity(self) -> dict[str, Any]:
        """The dotted settings that differ from their defaults, and the method's name: what a trial's key is made of.

        Where a folder lies is left out; what is in it is told by the data set's fingerprint.
        """
        family = self.dataset.partition(":")[0]
        default = _defaults(self.dataset, self.method.name)
        own = {key: value for key, value in self.flat().items() if value != default[key]}
        return own | {"dataset": family, "method.name": self.method.name}

    def pack_signature(self) -> dict[str, Any]:
        """The dotted settings that trials must share to be trained as one pack."""
        free = set(per_member_keys(self))
        return {key: value for key, value in self.flat().items() if key not in free}


@functools.lru_cache(maxsize=64)
def _defaults(dataset: str, method: str) -> Mapping[str, Any]:
    """The dotted default settings; asked for once a trial, and so cached."""
    return Trial.read({"dataset": dataset, "method": method}).flat()


def per_member_keys(trial: Trial) -> list[str]:
    """The dotted keys in which the members of a pack may differ."""

    def walk(settings: BaseModel, prefix: str) -> Iterator[str]:
        for name, field in type(settings).model_fields.items():
            value = getattr(settings, name)
            if isinstance(value, BaseModel):
                yield from walk(value, f"{prefix}{name}.")
            elif any(isinstance(mark, PerMember) for mark in field.metadata):
                yield prefix + name

    return list(walk(trial, ""))


def known_keys(method: str | None = None) -> dict[str, str]:
    """Every dotted key that a trial accepts, with its sentence; of one method, or of all."""

    def walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
        for name, field in model.model_fields.items():
            if prefix == "" and name == "method":
                for one in [method] if method else methods.names():
                    yield from walk(methods.get(one).Settings, "method.")
            elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from walk(field.annotation, f"{prefix}{name}.")
            else:
                yield prefix + name, field.description or ""

    return dict(walk(Trial, ""))


def _read_method(data: Any) -> MethodSettings:
    if isinstance(data, MethodSettings):
        return data
    if isinstance(data, str):
        data = {"name": data}
    if not isinstance(data, Mapping):
        raise InputError(f"method must be a group of settings with a name, not {data!r}", key="method")
    name = data.get("name", "cplearn")
    model: type[MethodSettings] = methods.get(name).Settings
    try:
        return model.model_validate({**data, "name": name})
    except ValidationError as error:
        raise _explain(error, {"method": data}, prefix="method.", method=name) from None


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _explain(
    error: ValidationError, data: Mapping[str, Any], prefix: str = "", method: str | None = None
) -> InputError:
    """One sentence for the first of pydantic's complaints."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    key = prefix + ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = known_keys(method)
        leaf = key.rsplit(".", 1)[-1]
        near = difflib.get_close_matches(key, known, 1, cutoff=0.75) or [
            k for k in known if k.rsplit(".", 1)[-1] == leaf
        ]
        near = near or difflib.get_close_matches(key, known, 1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return InputError(f"unknown key {key!r}; {hint}", key=key)
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    message = message[0].lower() + message[1:]
    given = first["input"]
    shown = f", not {given!r}" if not isinstance(given, Mapping) or not given else ""
    return InputError(f"{key}: {message}{shown}", key=key)
