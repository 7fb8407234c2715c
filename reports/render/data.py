"""A table for programs: as CSV, and as JSON, from which it can be read again."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Any

from reports.metrics import Metric
from reports.statistics.inference import Number
from reports.tables.model import Candidate, Cell, Choice, Column, Row, Source, Table

FORMAT = 1
"""Version of the JSON."""
CSV_COLUMNS = (
    *("block", "row", "column", "metric", "mean", "std", "n", "low", "high", "interval", "printed", "bold"),
    *("published", "difference", "seeds", "keys", "run_ids", "status"),
)


def to_csv(table: Table) -> str:
    """One line for each cell, numbers at full precision in the metric's own unit; lists are separated by spaces."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in table.all_rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            if not cell.metric:
                continue
            number = cell.number
            values = (number.mean, number.std, number.n, number.low, number.high, number.method) if number else [""] * 6
            ours = number.mean - cell.published if number and cell.published is not None else None
            lists = [
                [str(source.seed) for source in cell.sources],
                [source.key or "-" for source in cell.sources],
                [source.run_id or "-" for source in cell.sources],
                [source.status for source in cell.sources],
            ]
            names = (row.block, row.label, column.heading, cell.metric)
            writer.writerow([*names, *values, cell.mean, cell.bold, cell.published, ours, *map(" ".join, lists)])
    return out.getvalue()


def to_json(table: Table, about: Mapping[str, Any]) -> str:
    """The table in full, with `about` (how it was made) beside it. `from_json` reads it.

    Many cells share their trials: each group of trials is written once, and `sources` is its number.
    """
    groups: dict[tuple[Source, ...], int] = {}

    def number_of(sources: tuple[Source, ...]) -> int:
        return groups.setdefault(sources, len(groups))

    def plain(item: Any) -> Any:
        if dataclasses.is_dataclass(item):
            return {
                part.name: number_of(getattr(item, part.name))
                if part.name == "sources"
                else plain(getattr(item, part.name))
                for part in dataclasses.fields(item)
            }
        if isinstance(item, tuple | list):
            return [plain(part) for part in item]
        return {key: plain(part) for key, part in item.items()} if isinstance(item, dict) else item

    content = plain(table)
    sources = [[dataclasses.asdict(source) for source in group] for group in groups]
    document = {"format": FORMAT, **about, "table": content, "sources": sources}
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def from_json(document: Mapping[str, Any]) -> Table:
    """The table of a JSON document; raises KeyError, TypeError or ValueError if it is none."""
    if document.get("format") != FORMAT:
        raise ValueError(f"format {document.get('format')!r} instead of {FORMAT}")
    groups = [tuple(Source(**source) for source in group) for group in document["sources"]]

    def cell(item: dict[str, Any]) -> Cell:
        number = item["number"] and Number(**item["number"])
        return Cell(**{**item, "sources": groups[item["sources"]], "number": number})

    def row(item: dict[str, Any]) -> Row:
        cells = tuple(map(cell, item["cells"]))
        return Row(**{**item, "head": tuple(item["head"]), "cells": cells, "sources": groups[item["sources"]]})

    def choice(item: dict[str, Any]) -> Choice:
        candidates = [Candidate(**{**each, "sources": groups[each["sources"]]}) for each in item["candidates"]]
        return Choice(**{**item, "candidates": tuple(candidates), "tied": tuple(item["tied"])})

    content = document["table"]
    sentences = {name: tuple(content[name]) for name in ("headings", "caption", "notes", "origin", "statistics")}
    return Table(
        **{
            **content,
            **sentences,
            "columns": tuple(Column(**{**item, "groups": tuple(item["groups"])}) for item in content["columns"]),
            "baselines": tuple(map(row, content["baselines"])),
            "rows": tuple(map(row, content["rows"])),
            "metrics": {name: Metric(**metric) for name, metric in content["metrics"].items()},
            "choices": tuple(map(choice, content["choices"])),
        }
    )
