"""The benchmark's document as markdown; every number in it is taken from the JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

TABLES = {
    "pair": ("| | | | ratio | by turn | goal |", "| :-- | :-- | :-- | --: | --: | :-- |"),
    "measured": ("| | median (min to max) | turns | goal |", "| :-- | --: | --: | :-- |"),
    "growth": (
        "| | seconds at each size, median (min to max) | exponent | last two sizes |",
        "| :-- | :-- | --: | --: |",
    ),
}


def to_markdown(document: Mapping[str, Any]) -> str:
    """The whole report; `document` is what bench.json holds."""
    lines = ["# Benchmark", ""]
    if document["quick"]:
        lines += ["**A quick run: sizes and repeats are reduced, so these numbers say nothing about speed.**", ""]
    lines += [
        "Sides that are compared took turns on one machine in one run. A number is a median, with the least and the"
        " greatest in brackets; a ratio is that of the two medians, and *by turn* is the spread of the single "
        "turns' ratios.",
        "",
        "| machine | |",
        "| :-- | :-- |",
        *(f"| {key} | {'none' if value is None else value} |" for key, value in document["machine"].items()),
        "",
    ]
    for name, part in document["parts"].items():
        lines += [f"## {part['title']} (`{name}`)", "", part["method"], ""]
        lines += [line for note in part["notes"] for line in (note, "")]
        if part["skipped"]:
            lines += [f"Skipped: {part['skipped']}", ""]
        if part["failed"]:
            lines += ["**Failed**, so there are no numbers:", "", "```", part["failed"], "```", ""]
        lines += _rows(part["rows"])
    return "\n".join(lines).rstrip() + "\n"


def _rows(rows: list[dict[str, Any]]) -> list[str]:
    """One table for each kind of row."""
    lines: list[str] = []
    for kind, head in TABLES.items():
        chosen = [row for row in rows if row["kind"] == kind]
        if chosen:
            lines += [*head, *(_CELLS[kind](row) for row in chosen), ""]
    return lines


def _pair(row: dict[str, Any]) -> str:
    sides = " | ".join(f"{side['name']} {spread(side)} {row['unit']}" for side in row["sides"])
    ratio = row["ratio"]
    by_turn = f"{number(ratio['by_turn']['min'])} to {number(ratio['by_turn']['max'])}"
    turns = len(ratio["by_turn"]["values"])
    return f"| {row['label']} | {sides} | **{number(ratio['of_medians'])}** | {by_turn} (n = {turns}) | {goal(row)} |"


def _measured(row: dict[str, Any]) -> str:
    return f"| {row['label']} | {spread(row)} {row['unit']} | {len(row['values'])} | {goal(row)} |"


def _growth(row: dict[str, Any]) -> str:
    points = "; ".join(f"{point['size']:,}: {spread(point)}" for point in row["points"])
    return f"| {row['label']} | {points} | {row['exponent']:.2f} | {row['last_exponent']:.2f} |"


_CELLS = {"pair": _pair, "measured": _measured, "growth": _growth}


def goal(row: Mapping[str, Any]) -> str:
    """`at least 12: met`, or nothing where no goal was set."""
    wanted = row["goal"]
    if wanted is None:
        return ""
    return f"{wanted['sense']} {number(wanted['bound'])}: {'met' if wanted['met'] else '**missed**'}"


def spread(found: Mapping[str, Any]) -> str:
    """Median, and in brackets least and greatest where there are several numbers."""
    if len(found["values"]) == 1:
        return number(found["median"])
    return f"{number(found['median'])} ({number(found['min'])} to {number(found['max'])})"


def number(value: float) -> str:
    """Three significant digits, without powers of ten."""
    places = 0 if value >= 100 else 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{places}f}"
