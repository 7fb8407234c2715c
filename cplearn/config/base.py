"""The base of all groups of settings, and the types of their fields."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from cplearn.errors import refuse_if


def _whole(value: object) -> object:
    # `1e2` is a float in YAML; as a count it is as good as 100. Larger numbers fit neither a tensor nor a float.
    if isinstance(value, int | float) and abs(value) >= 2**63:
        raise ValueError("must be less than 2**63")
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


def setting(default: Any, sentence: str, **bounds: Any) -> Any:
    """A field of settings: its default, the sentence that `cplearn settings` prints, and pydantic's `ge`, `lt`, ..."""
    return Field(default, description=sentence, **bounds)


class Settings(BaseModel):
    """A group of settings: unknown keys, wrong types, NaN and infinity are refused; instances never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def changed(self, key: str) -> bool:
        """Whether a setting differs from its default. One without effect must not: one trial would have two keys."""
        return bool(getattr(self, key) != type(self).model_fields[key].default)


def refuse_without_effect(settings: Settings, name: str, group: str, owners: Mapping[str, list[str]]) -> None:
    """Raise InputError for a changed setting that only other names use."""
    for key, names in owners.items():
        useless = name not in names and settings.changed(key)
        refuse_if(useless, f"{group}.{key}", f"has no effect on {name}; it belongs to {' and '.join(names)}")


class MethodSettings(Settings):
    """Settings of a self-supervised method; each module in `cplearn.methods` extends it."""

    trains: ClassVar[bool] = True
    supervised: ClassVar[bool] = False  # Learns from labels.
    multi_crop: ClassVar[bool] = False  # Has a use for local crops beside the two global views.

    name: str = Field(description="Method, the name of its module in cplearn/methods.")

    def check_batch(self, batch_size: int) -> None:
        """Raise InputError where these settings cannot work with `batch_size` images a step."""


def listed(value: object) -> object:
    # One word is a list of one; sorted, since the order of a set must not tell two trials apart.
    values = [value] if isinstance(value, str | int | float) else value
    if not isinstance(values, list) or not all(isinstance(v, str | int | float) for v in values):
        return values
    return sorted(set(values)) if len({type(v) for v in values}) == 1 else values
