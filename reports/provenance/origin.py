"""What a table is made of, so that it can be made again, and the table.json that says so beside each table."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reports import store
from reports.render.files import from_json
from reports.store import SweepResult
from reports.tables import table_of_runs, table_of_sweep
from reports.tables.model import Table
from reports.tables.spec import TableSpec, Where
from sweeps.addresses import experiment_name, resolve, without_secrets
from sweeps.errors import UserError, explain


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
        address = without_secrets(resolve(uri))
        content = specification.model_dump(mode="json", exclude_defaults=True)
        return cls(address, experiment_name(), store.runs_at(uri), content, **asked)


class TableMaker:
    """Makes tables from what a store holds now; reads a sweep once for all of its data sets."""

    def __init__(self, uri: str | None) -> None:
        self.uri = uri
        self.results: dict[str, dict[str, SweepResult]] = {}

    def make(self, origin: Origin) -> Table:
        """The table of this origin as its runs give it now.

        Raises UserError where the sweep, its data set or all trials are gone, where the specification is none, and if
        the store cannot be read.
        """
        try:
            specification = TableSpec.model_validate(origin.specification)
        except ValidationError as error:
            raise UserError(f"its specification: {explain(error, list(TableSpec.model_fields))}") from None
        if not specification.per_sweep:
            trials = store.read_trials(self.uri, origin.sweeps)
            return replace(table_of_runs(trials, specification, origin.where), runs_at=origin.runs_at)
        (sweep,) = origin.sweeps
        if sweep not in self.results:
            self.results[sweep] = {result.slug: result for result in store.read_sweep(self.uri, sweep)}
        if origin.dataset not in self.results[sweep]:
            raise UserError(f"sweep {sweep!r} is no longer one on {origin.dataset!r}")
        table = table_of_sweep(self.results[sweep][origin.dataset], specification)
        return replace(table, runs_at=origin.runs_at)


def sidecar_of(path: Path) -> Path:
    """The table.json of a table's file or folder, which alone knows the runs behind the table."""
    sidecar = (path if path.is_dir() else path.parent) / "table.json"
    if not path.exists():
        raise UserError(f"{path}: there is no such file")
    if not sidecar.is_file():
        raise UserError(f"{sidecar}: no such file, and it is what knows the runs; write it with: cplearn report")
    return sidecar


def read_sidecar(sidecar: Path) -> tuple[Table, dict[str, Any]]:
    """The table in a table.json, and the whole document."""
    try:
        document = json.loads(sidecar.read_text(encoding="utf-8"))
        return from_json(document), document
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"{sidecar}: is not a table of this program ({type(error).__name__}: {error})") from None
