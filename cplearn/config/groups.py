"""The settings of backbone, augmentation, optimiser and evaluation."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from cplearn.config.base import Settings, Whole, listed, refuse_without_effect, setting
from cplearn.data import catalogue
from cplearn.errors import InputError, refuse_if

KEPT_COMPONENTS = 50  # Principal components of the test features that a run keeps for figures.


class BackboneSettings(Settings):
    name: Literal["resnet8", "resnet8-slim", "resnet18", "timm", "pixels"] = setting(
        "resnet8",
        "resnet8: constant width; resnet8-slim: widths w, 2w, 4w; resnet18: torchvision's layout, widths w "
        "to 8w; timm: the model that backbone.model names; pixels: the raw image.",
    )
    width: Whole | None = setting(
        None, "Channels of the first stage; by default 128 for resnet8, 32 for resnet8-slim, 64 for resnet18.", ge=1
    )
    stem: Literal["cifar", "imagenet"] = setting(
        "cifar", "Of resnet18; cifar: 3x3, stride 1, no pooling; imagenet: 7x7, stride 2, and max-pooling."
    )
    stem_padding: Literal[1, 2] = setting(
        1, "Padding of resnet18's cifar stem; 2 as in the authors' code, where images grow by two pixels."
    )
    model: str | None = setting(None, "Name of a timm model, vit_small_patch16_224 for instance.")
    drop_path: float = setting(0.0, "Stochastic depth of a timm model (published for ViT-S: 0.1).", ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _default_width(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("width") is None:
            width = {"resnet8": 128, "resnet8-slim": 32, "resnet18": 64}.get(str(data.get("name", "resnet8")))
            return {**data, "width": width}
        return data

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if self.name == "timm":
            if self.model is None:
                what = "backbone.name 'timm' needs backbone.model, vit_small_patch16_224 for instance"
                raise InputError(what, key="backbone.model")
            if self.width is not None:
                raise InputError("backbone.width: a timm model has its own width; leave it out", key="backbone.width")
        owners = {"stem": ["resnet18"], "stem_padding": ["resnet18"], "model": ["timm"], "drop_path": ["timm"]}
        refuse_without_effect(self, self.name, "backbone", owners)
        padded = self.stem == "imagenet" and self.stem_padding != 1
        refuse_if(padded, "backbone.stem_padding", "belongs to the cifar stem; leave it out with stem imagenet")
        return self


OWN_BACKBONES: tuple[str, ...] = get_args(BackboneSettings.model_fields["name"].annotation)
"""The backbones of this repository; those from outside have settings that extend `BackboneSettings`."""


class AugmentSettings(Settings):
    recipe: Literal[
        "digits",
        "paper",
        "paper-noflip",
        "solo-cifar",
        "solo-cifar-symmetric",
        "solo-cifar-vicreg",
        "imagenet",
        "none",
    ] = setting("paper", "Named list of transforms; the default depends on the data set.")
    crop_scale_min: float | None = setting(
        None,
        "Smallest area of a view's random resized crop, as a part of the image's; default: the recipe's "
        "(DINO with local crops: 0.4).",
        gt=0,
        le=1,
    )
    strength: float = setting(
        1.0, "Scales the parameter ranges of every random transform; 0 turns them off.", ge=0, le=2
    )
    local_views: Whole = setting(
        0, "Small local crops an image beside the two views, for methods with multi-crop (DINO: 8).", ge=0
    )
    local_size: Whole | None = setting(
        None, "Side in pixels of a local crop; by default half of the image's (published: 96 of 224).", ge=2
    )
    local_scale_min: float = setting(0.05, "Smallest area of a local crop, as a part of the image's.", gt=0, le=1)
    local_scale_max: float = setting(
        0.4, "Largest area of a local crop (DINO 0.4, SwAV 0.14), as a part of the image's.", gt=0, le=1
    )

    @model_validator(mode="after")
    def _check_crops(self) -> Self:
        if self.crop_scale_min is not None and not self.recipe.startswith(("solo-cifar", "imagenet")):
            what = f"augment.crop_scale_min: recipe {self.recipe!r} has no random resized crop; leave it out"
            raise InputError(what, key="augment.crop_scale_min")
        least, most = self.local_scale_min, self.local_scale_max
        refuse_if(least > most, "augment.local_scale_min", f"{least:g} is larger than local_scale_max {most:g}")
        for key in ("local_scale_max", "local_scale_min", "local_size"):
            useless = self.changed(key) and not self.local_views
            refuse_if(useless, f"augment.{key}", "has no effect without local crops; set augment.local_views too")
        return self


class OptimizerSettings(Settings):
    name: Literal["adam", "adamw", "sgd", "lars"] = setting(
        "adam",
        "adam and sgd add weight decay to the gradient, adamw does not; lars is sgd with a step of its own "
        "for every layer.",
    )
    lr: float = setting(1e-3, "Peak learning rate.", gt=0)
    scale_lr: bool = setting(False, "Multiply the peak learning rate by batch_size / 256.")
    lr_end: float = setting(0.0, "Learning rate at the end of the cosine.", ge=0)
    weight_decay: float = setting(0.0, "Weight decay of weights; of norms if decay_norms is set.", ge=0)
    weight_decay_end: float | None = setting(
        None, "Weight decay at the end, reached on a cosine (DINO: 0.04 to 0.4); by default constant.", ge=0
    )
    clip: float | None = setting(
        None, "Largest norm of the gradient of all weights together (ViT recipe: 3); default: any.", gt=0
    )
    momentum: float = setting(0.9, "Momentum of sgd and lars.", ge=0, lt=1)
    eta: float = setting(0.02, "Trust coefficient of lars.", gt=0)
    trust_clip: bool = setting(
        True, "Never let lars step further than sgd would; false: as You et al. (2017) published it."
    )
    decay_norms: bool = setting(
        False, "Weight decay, and lars' own step size, for norms and biases too; published GEDI: true."
    )
    schedule: Literal["constant", "cosine"] = setting("cosine", "Learning rate after the warm-up: constant or cosine.")
    warmup_epochs: float = setting(0.0, "Epochs of linear warm-up.", ge=0)
    warmup_lr: float = setting(3e-5, "Learning rate at the start of the warm-up.", ge=0)

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        owners = {"momentum": ["sgd", "lars"], "eta": ["lars"], "trust_clip": ["lars"]}
        refuse_without_effect(self, self.name, "optimizer", owners)
        constant = self.schedule == "constant"
        refuse_if(constant and self.lr_end, "optimizer.lr_end", "needs optimizer.schedule cosine")
        return self


class EvaluationSettings(Settings):
    probe: Annotated[list[Literal["lbfgs", "sgd", "adam"]], BeforeValidator(listed)] = setting(
        ["lbfgs"], "Linear probes: lbfgs (probe/), sgd as in solo-learn (probe_sgd/), adam, our reading of the paper."
    )
    probe_augment: bool = setting(
        False, "sgd and adam see a random crop and flip of each training image, new in every epoch."
    )
    probe_c: float = setting(1.0, "Inverse L2 penalty of the linear probe (scikit-learn's C).", gt=0)
    knn_neighbours: Whole = setting(20, "k of the k-NN classifier.", ge=1)
    knn_temperature: float = setting(0.07, "Temperature of the k-NN vote.", gt=0)
    kmeans_restarts: Whole = setting(10, "k-means runs; the one with the lowest inertia counts.", ge=1)
    validation: float = setting(
        0.1, "Part of the training images held out from a further probe: validation/accuracy.", ge=0, le=0.5
    )
    view_images: Whole = setting(
        500, "Training images of which the codes of two views are compared: select/view_...; 0: none.", ge=0
    )
    lidar: bool = setting(False, "LiDAR of ten views of each of 1,000 training images: select/lidar.")
    gmm_components: Annotated[list[Annotated[Whole, Field(ge=1)]], BeforeValidator(listed)] = setting(
        [], "Gaussian mixtures of so many components whose entropy is measured; the paper's: 10 to 200."
    )
    transfer: Annotated[list[str], BeforeValidator(listed)] = setting(
        [], "Other data sets on which the features are probed too: transfer/<name>/accuracy."
    )
    online_probe: bool = setting(False, "Train a linear classifier beside the backbone: train/online_....")
    online_lr: float = setting(0.1, "Peak learning rate of the online probe.", gt=0)
    watch_images: Whole = setting(
        128, "Training images on which collapse is measured while a trial trains: train/codes_used, ...; 0: none.", ge=0
    )
    watch_every: Whole = setting(1, "Epochs from one of these measurements to the next.", ge=1)
    kept_images: Whole = setting(2000, "Most test images whose features and embeddings are kept for figures.", ge=0)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        refuse_if(
            self.changed("online_lr") and not self.online_probe,
            "evaluation.online_lr",
            "has no effect without the online probe; set evaluation.online_probe too",
        )
        useless = self.changed("watch_every") and not self.watch_images
        refuse_if(useless, "evaluation.watch_every", "has no effect without images; set evaluation.watch_images too")
        useless = self.probe_augment and set(self.probe) == {"lbfgs"}
        refuse_if(useless, "evaluation.probe_augment", "has no effect on lbfgs; add sgd or adam to evaluation.probe")
        for name in self.transfer:
            catalogue.entry(name)
        return self


NEED_TRAINING = {
    *("online_probe", "online_lr", "watch_images", "watch_every"),
    *("view_images", "lidar", "gmm_components"),
}
"""Settings of the evaluation that concern training or the projector: a method that has neither ignores them."""
