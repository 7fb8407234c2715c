"""What defines one trial: every setting that can change its numbers, with a type, a default and a sentence.

Settings that only say *where* a trial runs (device, workers, packing) live with the runner: they must not enter a
trial's identity. `Trial.canonical` is the plain dict from which that identity is computed.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator
from pydantic.fields import FieldInfo

from cplearn import methods
from cplearn.data import catalogue
from cplearn.errors import InputError

NUMERICS = 3
"""Version of the training numerics, a part of every trial's identity. Raise it when a change makes equal settings give
other numbers, a changed default included; finished trials of an older version are then no longer reused."""


KEPT_COMPONENTS = 50
"""Principal components of the test features that a run keeps for figures."""


class PerMember:
    """Marks a number in which the members of one pack may differ; all other settings they must share."""


def _whole(value: object) -> object:
    # `1e2` is a float in YAML; as a count it is as good as 100.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


class Settings(BaseModel):
    """A group of settings: unknown keys, wrong types, NaN and infinity are refused; instances never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _refuse_without_effect(settings: Settings, name: str, group: str, owners: Mapping[str, list[str]]) -> None:
    """Raise InputError for a changed setting that only other names use; two keys for one trial would be the result."""
    for key, names in owners.items():
        if name not in names and getattr(settings, key) != type(settings).model_fields[key].default:
            raise InputError(
                f"{group}.{key} has no effect on {name}; it belongs to {' and '.join(names)}", key=f"{group}.{key}"
            )


class MethodSettings(Settings):
    """Settings of a self-supervised method; each module in `cplearn.methods` extends it."""

    trains: ClassVar[bool] = True
    supervised: ClassVar[bool] = False
    """Learns from labels."""
    multi_crop: ClassVar[bool] = False
    """Has a use for local crops beside the two global views."""

    name: str = Field(description="Method, the name of its module in cplearn/methods.")

    def check_batch(self, batch_size: int) -> None:
        """Raise InputError where these settings cannot work with `batch_size` images a step."""


class Backbone(Settings):
    name: Literal["resnet8", "resnet8-slim", "resnet18", "timm", "pixels"] = Field(
        "resnet8",
        description="resnet8: constant width; resnet8-slim: widths w, 2w, 4w; resnet18: torchvision's layout, widths w "
        "to 8w; timm: the model that backbone.model names; pixels: the raw image.",
    )
    width: Whole | None = Field(
        None,
        ge=1,
        description="Channels of the first stage; by default 128 for resnet8, 32 for resnet8-slim, 64 for resnet18.",
    )
    stem: Literal["cifar", "imagenet"] = Field(
        "cifar", description="Of resnet18; cifar: 3x3, stride 1, no pooling; imagenet: 7x7, stride 2, and max-pooling."
    )
    stem_padding: Literal[1, 2] = Field(
        1,
        description="Padding of resnet18's cifar stem; 2 as in the authors' code, where images grow by two pixels.",
    )
    model: str | None = Field(
        None,
        description="Name of a timm model, vit_small_patch16_224 for instance; never part of a pack.",
    )
    drop_path: float = Field(
        0.0, ge=0, lt=1, description="Stochastic depth of a timm model (published for ViT-S: 0.1)."
    )

    @property
    def stackable(self) -> bool:
        """Whether several trials can be trained as one model; the layers of timm know no members."""
        return self.name != "timm"

    @model_validator(mode="before")
    @classmethod
    def _default_width(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("width") is None:
            width = {"resnet8": 128, "resnet8-slim": 32, "resnet18": 64}.get(str(data.get("name", "resnet8")))
            return {**data, "width": width}
        return data

    @model_validator(mode="after")
    def _check_parts(self) -> Backbone:
        if self.name == "timm":
            if self.model is None:
                raise InputError(
                    "backbone.name 'timm' needs backbone.model, vit_small_patch16_224 for instance",
                    key="backbone.model",
                )
            if self.width is not None:
                raise InputError("backbone.width: a timm model has its own width; leave it out", key="backbone.width")
        owners = {"stem": ["resnet18"], "stem_padding": ["resnet18"], "model": ["timm"], "drop_path": ["timm"]}
        _refuse_without_effect(self, self.name, "backbone", owners)
        if self.stem == "imagenet" and self.stem_padding != 1:
            raise InputError(
                "backbone.stem_padding belongs to the cifar stem; leave it out with stem imagenet",
                key="backbone.stem_padding",
            )
        return self


class Augment(Settings):
    recipe: Literal["digits", "paper", "paper-noflip", "solo-cifar", "imagenet", "none"] = Field(
        "paper",
        description="Named list of transforms: digits, paper, paper-noflip, solo-cifar, imagenet or none; the default "
        "depends on the data set.",
    )
    strength: Annotated[float, PerMember()] = Field(
        1.0, ge=0, le=2, description="Scales the parameter ranges of every random transform; 0 turns them off."
    )
    local_views: Whole = Field(
        0, ge=0, description="Small local crops an image beside the two views, for methods with multi-crop (DINO: 8)."
    )
    local_size: Whole | None = Field(
        None, ge=2, description="Side in pixels of a local crop; by default half of the image's (published: 96 of 224)."
    )
    local_scale_min: float = Field(
        0.05, gt=0, le=1, description="Smallest area of a local crop, as a part of the image's."
    )
    local_scale_max: float = Field(
        0.4, gt=0, le=1, description="Largest area of a local crop (DINO 0.4, SwAV 0.14), as a part of the image's."
    )

    @model_validator(mode="after")
    def _check_local(self) -> Augment:
        if self.local_scale_min > self.local_scale_max:
            raise InputError(
                f"augment.local_scale_min {self.local_scale_min:g} is larger than local_scale_max "
                f"{self.local_scale_max:g}",
                key="augment.local_scale_min",
            )
        changed = {"local_size", "local_scale_min", "local_scale_max"} & {
            name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default
        }
        if changed and not self.local_views:
            # Otherwise two trials that are the same would have two keys.
            raise InputError(
                f"augment.{min(changed)} has no effect without local crops; set augment.local_views too",
                key=f"augment.{min(changed)}",
            )
        return self


class Optimizer(Settings):
    name: Literal["adam", "adamw", "sgd", "lars"] = Field(
        "adam",
        description="adam and sgd add weight decay to the gradient, adamw does not; lars is sgd with a step of its own "
        "for every layer.",
    )
    lr: Annotated[float, PerMember()] = Field(1e-3, gt=0, description="Peak learning rate.")
    scale_lr: bool = Field(False, description="Multiply the peak learning rate by batch_size / 256.")
    lr_end: Annotated[float, PerMember()] = Field(0.0, ge=0, description="Learning rate at the end of the cosine.")
    weight_decay: Annotated[float, PerMember()] = Field(0.0, ge=0, description="Weight decay of weights, not of norms.")
    weight_decay_end: Annotated[float | None, PerMember()] = Field(
        None, ge=0, description="Weight decay at the end, reached on a cosine (DINO: 0.04 to 0.4); by default constant."
    )
    clip: Annotated[float | None, PerMember()] = Field(
        None, gt=0, description="Largest norm of the gradient of all weights together (ViT recipe: 3); default: any."
    )
    momentum: Annotated[float, PerMember()] = Field(0.9, ge=0, lt=1, description="Momentum of sgd and lars.")
    eta: Annotated[float, PerMember()] = Field(0.02, gt=0, description="Trust coefficient of lars.")
    schedule: Literal["constant", "cosine"] = Field(
        "cosine", description="Learning rate after the warm-up: constant or cosine."
    )
    warmup_epochs: Annotated[float, PerMember()] = Field(0.0, ge=0, description="Epochs of linear warm-up.")
    warmup_lr: Annotated[float, PerMember()] = Field(
        3e-5, ge=0, description="Learning rate at the start of the warm-up."
    )

    @model_validator(mode="after")
    def _check_parts(self) -> Optimizer:
        _refuse_without_effect(self, self.name, "optimizer", {"momentum": ["sgd", "lars"], "eta": ["lars"]})
        if self.schedule == "constant" and self.lr_end:
            raise InputError("optimizer.lr_end needs optimizer.schedule cosine", key="optimizer.lr_end")
        return self


def _listed(value: object) -> object:
    # One word is a list of one; sorted, since the order of a set must not tell two trials apart.
    values = [value] if isinstance(value, str | int | float) else value
    return sorted(set(values)) if isinstance(values, list) and len({type(v) for v in values}) == 1 else values


class Evaluation(Settings):
    probe: Annotated[list[Literal["lbfgs", "sgd", "adam"]], BeforeValidator(_listed)] = Field(
        ["lbfgs"],
        description="Linear probes: lbfgs (probe/), sgd as in solo-learn (probe_sgd/), adam, our reading of the paper.",
    )
    probe_augment: bool = Field(
        False, description="sgd and adam see a random crop and flip of each training image, new in every epoch."
    )
    probe_c: float = Field(1.0, gt=0, description="Inverse L2 penalty of the linear probe (scikit-learn's C).")
    knn_neighbours: Whole = Field(20, ge=1, description="k of the k-NN classifier.")
    knn_temperature: float = Field(0.07, gt=0, description="Temperature of the k-NN vote.")
    kmeans_restarts: Whole = Field(10, ge=1, description="k-means runs; the one with the lowest inertia counts.")
    validation: float = Field(
        0.1, ge=0, le=0.5, description="Part of the training images held out from a further probe: validation/accuracy."
    )
    view_images: Whole = Field(
        500, ge=0, description="Training images of which the codes of two views are compared: select/view_...; 0: none."
    )
    lidar: bool = Field(False, description="LiDAR of ten views of each of 1,000 training images: select/lidar.")
    gmm_components: Annotated[list[Annotated[Whole, Field(ge=1)]], BeforeValidator(_listed)] = Field(
        [], description="Gaussian mixtures of so many components whose entropy is measured; the paper's: 10 to 200."
    )
    transfer: Annotated[list[str], BeforeValidator(_listed)] = Field(
        [], description="Other data sets on which the features are probed too: transfer/<name>/accuracy."
    )
    online_probe: bool = Field(False, description="Train a linear classifier beside the backbone: train/online_....")
    online_lr: Annotated[float, PerMember()] = Field(0.1, gt=0, description="Peak learning rate of the online probe.")
    kept_images: Whole = Field(
        2000, ge=0, description="Most test images whose features and embeddings are kept for figures."
    )

    @model_validator(mode="after")
    def _check_together(self) -> Evaluation:
        if not self.online_probe and self.online_lr != type(self).model_fields["online_lr"].default:
            # Otherwise two trials that are the same would have two keys.
            raise InputError(
                "evaluation.online_lr has no effect without the online probe; set evaluation.online_probe too",
                key="evaluation.online_lr",
            )
        if self.probe_augment and set(self.probe) == {"lbfgs"}:
            raise InputError(
                "evaluation.probe_augment has no effect on lbfgs; add sgd or adam to evaluation.probe",
                key="evaluation.probe_augment",
            )
        slugs = [(catalogue.entry(name), catalogue.slug(name))[1] for name in self.transfer]
        if twice := next((slug for slug in slugs if slugs.count(slug) > 1), None):
            raise InputError(
                f"evaluation.transfer: two data sets share the name {twice!r}; rename one", key="evaluation.transfer"
            )
        return self


NEED_TRAINING = {"online_probe", "online_lr", "view_images", "lidar", "gmm_components"}
"""Settings of the evaluation that concern training or the projector: a method that has neither ignores them."""


class Trial(Settings):
    """One training and its evaluation."""

    dataset: str = Field("digits", description="A name that `cplearn data` lists, or folder:PATH.")
    image_size: Whole | None = Field(
        None,
        ge=4,
        le=1024,
        description="Side in pixels to which images of a folder are resized; default: their own, if equal.",
    )
    decode: Literal["cached", "on-demand"] = Field(
        "cached",
        description="Images of a folder: decoded once at image_size, or whenever used, crops from full resolution.",
    )
    train_images: Whole | None = Field(
        None, ge=2, description="Use so many of the training images, evenly from every class; default: all."
    )
    test_images: Whole | None = Field(
        None, ge=2, description="Use so many of the test images, evenly from every class; default: all."
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
    precision: Literal["float32", "float64", "bfloat16", "float16"] = Field(
        "float32",
        description="float64 is for verification; bfloat16 and float16 are autocast on float32 weights, float16 with "
        "a scaled loss.",
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
        dataset = data.get("dataset", "digits")
        entry = catalogue.entry(dataset) if isinstance(dataset, str) else None
        data["method"] = _read_method(data.get("method", "cplearn"), entry.method if entry else {})
        if entry:
            backbone, augment = data.get("backbone", {}), data.get("augment", {})
            if isinstance(backbone, Mapping):
                data["backbone"] = {**entry.backbone, **backbone} if "name" not in backbone else backbone
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
    def _check_together(self) -> Trial:
        ways = catalogue.entry(self.dataset).decode
        if self.decode not in ways:
            raise InputError(f"decode {self.decode!r}: {self.dataset} can only be {' or '.join(ways)}", key="decode")
        if self.method.trains:
            if self.backbone.name == "pixels":
                raise InputError(
                    "backbone.name 'pixels' has nothing to train; use it with method.name 'untrained'",
                    key="backbone.name",
                )
            if self.augment.local_views and not self.method.multi_crop:
                able = [name for name in methods.names() if methods.get(name).Settings.multi_crop]
                raise InputError(
                    f"augment.local_views {self.augment.local_views}: method {self.method.name!r} has no use for local "
                    f"crops (those that have: {', '.join(able)}); leave it at 0",
                    key="augment.local_views",
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

    def data_request(self) -> dict[str, Any]:
        """The arguments of `cplearn.data.load` that give this trial's images."""
        return {
            "name": self.dataset,
            "image_size": self.image_size,
            "decode": self.decode,
            "train_images": self.train_images,
            "test_images": self.test_images,
        }

    @property
    def stackable(self) -> bool:
        """Whether trials like this one can share a pack at all."""
        return self.backbone.stackable

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
    return {key: field.description or "" for key, field in _fields(method)}


def list_keys() -> set[str]:
    """The dotted keys whose values are lists."""
    return {key for key, field in _fields() if get_origin(field.annotation) is list}


def _fields(method: str | None = None) -> Iterator[tuple[str, FieldInfo]]:
    def walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
        for name, field in model.model_fields.items():
            if prefix == "" and name == "method":
                for one in [method] if method else methods.names():
                    yield from walk(methods.get(one).Settings, "method.")
            elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from walk(field.annotation, f"{prefix}{name}.")
            else:
                yield prefix + name, field

    return walk(Trial, "")


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
        raise _explain(error, {"method": data}, prefix="method.", method=name) from None


def _flatten(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):  # quicker than Mapping by far, and a plan flattens thousands of trials
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
