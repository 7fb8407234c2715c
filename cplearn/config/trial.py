"""What defines one trial: every setting that can change its numbers, with a type, a default and a sentence.

Settings that only say *where* a trial runs (device, workers) live with the runner: they must not enter a
trial's identity. `TrialSettings.canonical` is the plain dict from which that identity is computed.
"""

import difflib
import functools
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal, Self, get_origin

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, model_validator
from pydantic.fields import FieldInfo

from cplearn import methods, outside
from cplearn.config.base import MethodSettings, Settings, Whole, setting
from cplearn.config.groups import (
    NEED_TRAINING,
    OWN_BACKBONES,
    AugmentSettings,
    BackboneSettings,
    EvaluationSettings,
    OptimizerSettings,
)
from cplearn.data import catalogue
from cplearn.errors import InputError, refuse_if

NUMERICS = 4
"""Version of the training numerics, a part of every trial's identity. Raise it when a change makes equal settings give
other numbers, a changed default included; finished trials of an older version are then no longer reused."""


class TrialSettings(Settings):
    """One training and its evaluation."""

    dataset: str = setting("digits", "A name that `cplearn data` lists, folder:PATH for instance.")
    image_size: Whole | None = setting(
        None, "Side in pixels to which images of a folder are resized; default: their own, if equal.", ge=4, le=1024
    )
    decode: Literal["cached", "on-demand"] = setting(
        "cached", "Images of a folder: decoded once at image_size, or whenever used, crops from full resolution."
    )
    train_images: Whole | None = setting(
        None, "Use so many of the training images, evenly from every class; default: all.", ge=2
    )
    test_images: Whole | None = setting(
        None, "Use so many of the test images, evenly from every class; default: all.", ge=2
    )
    test_share: float | None = setting(
        None, "Part of the images that become the test split where a data set has none; default: 0.2.", gt=0, lt=1
    )
    normalisation: Literal["scalar", "channels"] = setting(
        "scalar",
        "Mean and deviation that normalise pixels: one for all channels (authors' small-scale code), or of "
        "each channel of the training images (solo-learn).",
    )
    method: SerializeAsAny[MethodSettings] = Field(description="Method and its settings; method.name chooses it.")
    backbone: SerializeAsAny[BackboneSettings] = setting(
        BackboneSettings(), "Network whose features are kept; default depends on the data set."
    )
    augment: AugmentSettings = setting(AugmentSettings(), "How the two views of an image are made.")
    optimizer: OptimizerSettings = setting(OptimizerSettings(), "Optimiser and learning-rate schedule.")
    evaluation: EvaluationSettings = setting(EvaluationSettings(), "Protocol on the frozen backbone.")
    epochs: Whole = setting(20, "Passes over the training images.", ge=0)
    batch_size: Whole = setting(64, "Images a step; incomplete batches are dropped.", ge=2)
    precision: Literal["float32", "float64", "bfloat16", "float16"] = setting(
        "float32",
        "float64 is for verification; bfloat16 and float16 are autocast on float32 weights, float16 with "
        "a scaled loss.",
    )
    seed: Whole = setting(0, "Seed of every random draw of the trial.", ge=0, lt=2**32)
    common_random_numbers: bool = setting(
        True, "Trials of one seed share batches, views, initial weights and dictionary: they compare pairwise."
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve_defaults(cls, data: Any) -> Any:
        """Write out what depends on data set or method, so that written and omitted defaults are the same trial."""
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        dataset = data.get("dataset", "digits")
        entry = catalogue.entry(dataset) if isinstance(dataset, str) else None
        data["method"] = _read_method(data.get("method", "cplearn"), entry.method if entry else {})
        if entry:
            backbone, augment = data.get("backbone", {}), data.get("augment", {})
            if isinstance(backbone, Mapping):
                data["backbone"] = _read_backbone(({} if "name" in backbone else entry.backbone) | dict(backbone))
            if isinstance(augment, Mapping):
                data["augment"] = {"recipe": entry.recipe, **augment}
            if data.get("image_size") is None:
                data["image_size"] = entry.image_size
            data.setdefault("decode", entry.decode[0])
        if not data["method"].trains:
            # What cannot matter must not tell two trials apart.
            data["epochs"] = 0
            for key in ("augment", "optimizer", "batch_size", "common_random_numbers"):
                data.pop(key, None)
            if isinstance(data.get("evaluation"), Mapping):
                data["evaluation"] = {k: v for k, v in data["evaluation"].items() if k not in NEED_TRAINING}
        return data

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        catalogue.check_decode(self.dataset, self.decode)
        if self.method.trains:
            pixels = self.backbone.name == "pixels"
            refuse_if(pixels, "backbone.name", "'pixels' has nothing to train; use it with method.name 'untrained'")
            if self.augment.local_views and not self.method.multi_crop:
                able = [name for name in methods.own() if methods.get(name).Settings.multi_crop]
                raise InputError(
                    f"augment.local_views {self.augment.local_views}: method {self.method.name!r} has no use for local "
                    f"crops (those that have: {', '.join(able)}); leave it at 0",
                    key="augment.local_views",
                )
            self.method.check_batch(self.batch_size)
        refuse_if(
            self.normalisation == "channels" and self.decode == "on-demand",
            "normalisation",
            "'channels' needs all pixels of the training images, and decode on-demand reads them one by one; set "
            "decode cached",
        )
        warmup = self.optimizer.warmup_epochs
        too_long = self.method.trains and 0 < self.epochs < warmup
        refuse_if(too_long, "optimizer.warmup_epochs", f"{warmup:g} is longer than epochs {self.epochs}")
        return self

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """The trial of a nested dict of settings.

        Raises InputError with the dotted key, the bad value, and for an unknown key the nearest known one.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise _explain(error, known_keys()) from None

    def canonical(self) -> dict[str, Any]:
        """The nested plain dict with every setting written out; `TrialSettings.read` makes an equal trial of it."""
        return self.model_dump(mode="json")

    def flat(self) -> dict[str, Any]:
        """The settings under dotted keys, `method.beta` for instance."""
        return dict(_flatten(self.canonical()))

    def identity(self) -> dict[str, Any]:
        """The dotted settings that differ from their defaults, and the method's name: what a trial's key is made of.

        Where a folder lies is left out; what is in it is told by the data set's fingerprint.
        """
        default = _defaults(self.dataset, self.method.name)
        changed = {key: value for key, value in self.flat().items() if key not in default or value != default[key]}
        return changed | {"dataset": self.dataset.partition(":")[0], "method.name": self.method.name}

    def code_from_outside(self) -> dict[str, str]:
        """The versions of all code that is not of this repository, by group and name; see `cplearn.outside`."""
        families = {name.partition(":")[0] for name in (self.dataset, *self.evaluation.transfer)}
        used = [(outside.DATASETS, name) for name in sorted(families - catalogue.CATALOGUE.keys())]
        if self.method.name not in methods.own():
            used.append((outside.METHODS, self.method.name))
        if self.backbone.name not in OWN_BACKBONES:
            used.append((outside.BACKBONES, self.backbone.name))
        return {f"{group} {name}": outside.version(group, name) for group, name in used}

    def data_request(self) -> dict[str, Any]:
        """The arguments of `cplearn.data.load` that give this trial's images."""
        keys = ("image_size", "decode", "train_images", "test_images", "test_share")
        return {"name": self.dataset} | {key: getattr(self, key) for key in keys}


@functools.lru_cache(maxsize=64)
def _defaults(dataset: str, method: str) -> Mapping[str, Any]:
    """The dotted default settings; asked for once a trial, and so cached."""
    return TrialSettings.read({"dataset": dataset, "method": method}).flat()


def known_keys(method: str | None = None) -> dict[str, str]:
    """Every dotted key that a trial accepts, with its sentence; of one method, or of all."""
    return {key: field.description or "" for key, field in _fields(method)}


def list_keys() -> set[str]:
    return {key for key, field in _fields() if get_origin(field.annotation) is list}


def _fields(method: str | None = None, group: type[BaseModel] | None = None) -> Iterator[tuple[str, FieldInfo]]:
    """The fields of a group, or of a trial with one method or any, by dotted key."""
    broken = (InputError,) if method is None else ()  # as a package of others may be
    for name, field in (group or TrialSettings).model_fields.items():
        kinds: list[Any] = [field.annotation]
        if field.annotation is MethodSettings:
            kinds = []
            for each in [method] if method else methods.names():
                with suppress(*broken):
                    kinds.append(methods.get(each).Settings)
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from ((f"{name}.{key}", inner) for key, inner in _fields(method, kind))
            else:
                yield name, field


def _read_method(data: Any, defaults: Mapping[str, Mapping[str, Any]]) -> MethodSettings:
    """The settings of a method; `defaults` are those of a data set, by the method's name."""
    if isinstance(data, MethodSettings):
        return data
    if isinstance(data, str):
        data = {"name": data}
    if not isinstance(data, Mapping):
        raise InputError(f"method must be a group of settings with a name, not {data!r}", key="method")
    name = data.get("name", "cplearn")
    model: type[MethodSettings] = methods.get(name).Settings
    try:
        return model.model_validate({**defaults.get(name, {}), **data, "name": name})
    except ValidationError as error:
        raise _explain(error, known_keys(name), prefix="method.") from None


def _read_backbone(data: Mapping[str, Any]) -> Any:
    """The settings of a backbone from outside; those of others are left as they are."""
    name = data.get("name")
    if name in OWN_BACKBONES or not outside.has(outside.BACKBONES, name):
        return data
    needs = ["Settings", "build"]
    model: type[BackboneSettings] = outside.module(outside.BACKBONES, str(name), "backbone.name", needs).Settings
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _explain(error, [f"backbone.{key}" for key in model.model_fields], prefix="backbone.") from None


def _explain(error: ValidationError, known: Collection[str], prefix: str = "") -> InputError:
    """One sentence for the first of pydantic's complaints; `known` are the dotted keys that a trial accepts."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    key = prefix + ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        leaf = key.rsplit(".", 1)[-1]
        near = (
            difflib.get_close_matches(key, known, 1, cutoff=0.75)
            or [other for other in known if other.rsplit(".", 1)[-1] == leaf]
            or difflib.get_close_matches(key, known, 1, cutoff=0.4)
        )
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return InputError(f"unknown key {key!r}; {hint}", key=key)
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    message = message[0].lower() + message[1:]
    given = first["input"]
    shown = f", not {given!r}" if not isinstance(given, Mapping) or not given else ""
    return InputError(f"{key}: {message}{shown}", key=key)


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):  # quicker than Mapping by far, and a plan flattens thousands of trials
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
