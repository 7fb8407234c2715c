"""What a table is made of, so that it can be made again."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from reports import store
from reports.store import SweepResult
from reports.tables import Table, make_table, paper, spec
from reports.tables.spec import TableSpec, Where
from sweeps.errors import UserError


@dataclass(frozen=True)
class Origin:
    """The store, without secrets, and what was asked of it: the specification in full; the sweeps whose trials count,
    none meaning those of the whole experiment; settings that trials must have; for a sweep's own table its data set."""

    store: str
    experiment: str
    runs_at: str
    specification: dict[str, Any]
    sweeps: list[str] = field(default_factory=list)
    where: Where = field(default_factory=dict)
    dataset: str = ""

    @classmethod
    def of(cls, uri: str | None, specification: TableSpec, **asked: Any) -> Origin:
        address = store.without_secrets(store.resolve(uri))
        content = specification.model_dump(mode="json", exclude_defaults=True)
        return cls(address, store.experiment_name(), store.runs_at(uri), content, **asked)

    def of_dataset(self, slug: str) -> Origin:
        """The same for one data set."""
        return replace(self, dataset=slug)


class Maker:
    """Makes tables from what a store holds now; reads a sweep once for all of its data sets."""

    def __init__(self, uri: str | None) -> None:
        self.uri = uri
        self.results: dict[str, dict[str, SweepResult]] = {}

    def make(self, origin: Origin) -> Table:
        """The table of this origin as its runs give it now.

        Raises UserError where the sweep, its data set or all trials are gone, and if the store cannot be read.
        """
        specification = spec.TableSpec.model_validate(origin.specification)
        if not specification.per_sweep:
            trials = store.read_trials(self.uri, origin.sweeps or None)
            table = paper.make_table(trials, specification, origin.where)
        else:
            (sweep,) = origin.sweeps
            if sweep not in self.results:
                self.results[sweep] = {one.slug: one for one in store.read_sweep(self.uri, sweep)}
            if origin.dataset not in self.results[sweep]:
                raise UserError(f"sweep {sweep!r} is no longer one on {origin.dataset!r}")
            table = make_table(self.results[sweep][origin.dataset], specification)
        return replace(table, runs_at=origin.runs_at)
