"""What a table's specification says of choices: criteria that never see the test split, a setting to choose, grids."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from reports.tables.model import EXTRA, Preference
from sweeps.record import TRAIN, UNSEEN

Scalar = bool | int | float | str | None


def _check_fingerprint(where: dict[str, Any]) -> dict[str, Any]:
    fingerprint = EXTRA[0]
    if isinstance(where.get(fingerprint), float):
        raise ValueError(f"{fingerprint}: YAML takes it for a number; write it in quotes")
    return where


Where = Annotated[dict[str, Scalar | list[Scalar]], AfterValidator(_check_fingerprint)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _word_in_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Settings = Annotated[list[str], BeforeValidator(_word_in_list), Field(min_length=1)]
"""Settings under their dotted names; a word alone is short for a list of one."""


class Criterion(Strict):
    """A metric that settings may be chosen by, since it never sees the test split."""

    by: str = Field(description="A metric under validation/, select/ or train/.")
    better: Preference = Field("higher", description="Which value wins.")

    @model_validator(mode="after")
    def _is_honest(self) -> Criterion:
        if not self.by.startswith(UNSEEN):
            raise ValueError(
                f"{self.by!r} is measured on the test split, so choosing by it would flatter the table; choose by "
                "validation/..., select/... or train/..."
            )
        self._check_that_it_compares()
        for ending, better, where in (("loss", "lower", "lowest"), ("/alpha_req", "nearest 1", "nearest to 1")):
            if self.by.endswith(ending) and self.better != better:
                raise ValueError(f"{self.by!r} is best where it is {where}; write better: {better}")
        return self

    def _check_that_it_compares(self) -> None:
        """Raise ValueError where its values of different settings mean different things."""


class Selection(Criterion):
    """Settings whose value is chosen for each cell by the mean of a criterion over seeds."""

    over: Settings = Field(description="The setting, method.beta for instance; a list if each method has another.")

    def _check_that_it_compares(self) -> None:
        is_loss = self.by.startswith(TRAIN) and not self.by.startswith(f"{TRAIN}online_")
        if is_loss and not all(key.startswith("optimizer.") for key in self.over):
            raise ValueError(
                f"{self.by!r} means another thing at each {' and '.join(self.over)}, so its values do not compare; "
                "choose by validation/... or select/..."
            )


class StudiedCriterion(Criterion):
    """A criterion whose choices are judged; `where` says of which trials."""

    where: Where = Field(default_factory=dict, description="Only trials with these settings.")


class StudySettings(Strict):
    """A table whose cells hold all settings of a method's weight instead of one: how much do these differ, how many
    collapse, how well does a criterion choose among them?"""

    over: Settings = Field(description="The weights, of each method another; they span its grid.")
    criteria: dict[str, StudiedCriterion] = Field(default_factory=dict, description="Name to what chooses a setting.")
    mean: str | None = Field(None, description="The name of a last row, the mean of the others; default: none.")

    def named(self, by: str) -> StudiedCriterion | None:
        """The criterion with this metric."""
        return next((criterion for criterion in self.criteria.values() if criterion.by == by), None)
