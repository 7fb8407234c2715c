"""The numbers of a table for running text: a macro of LaTeX for each, and the same as JSON.

A name is made of the sweep (or table), the data set, the row and the metric, in letters alone: `\\BetaDigitsBestBeta`.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from reports import spelling
from reports.render.latex import latex, latex_value
from reports.tables.model import FINISHED, Cell, Row, Table

DIGITS = ("Zero", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")


@dataclass(frozen=True)
class Number:
    """A number or a setting's value: exactly, as printed, and in words."""

    value: float | str
    text: str
    about: str


def macro_name(*parts: str) -> str:
    """Parts of a name in letters that LaTeX takes: digits and Greek letters by their names, other signs left out.

    >>> macro_name("beta", "cifar10", "β = 0.1", "probe/accuracy")
    'BetaCifarOneZeroBetaZeroPointOneProbeAccuracy'
    """
    text = re.sub(r"(?<=\d)\.(?=\d)", " point ", " ".join(parts))
    text = re.sub(r"(?<=[\d ]e)-(?=\d)|(?<= )-(?=\d)", " minus ", text)  # Of a number, not of CIFAR-10.
    letters = []
    for sign in unicodedata.normalize("NFD", text):
        if sign.isascii():
            letters.append(f" {DIGITS[int(sign)]} " if sign.isdigit() else sign if sign.isalpha() else " ")
        elif sign.isalpha():  # `GREEK SMALL LETTER BETA`
            letters.append(f" {unicodedata.name(sign, '').rpartition(' ')[2]} ")
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", "".join(letters))
    return "".join(word[0].upper() + word[1:].lower() for word in words)


def numbers_of(table: Table) -> dict[str, Number]:
    """Every number of a table by its name, the first of equal names."""
    numbers: dict[str, Number] = {}
    for name, number in (*_about(table), *_cells(table), *_best(table)):
        numbers.setdefault(macro_name(table.sweep, table.slug, name), number)
    return numbers


def to_tex(table: Table) -> str:
    """A file for `\\input` that defines a macro for each number; it needs no package."""
    lines = [f"% Numbers of {latex(table.title)}. Written by: cplearn report; checked by: cplearn verify"]
    for name, number in numbers_of(table).items():
        spelled = latex_value(number.text)
        in_math = rf"\ensuremath{{{spelled.strip('$')}}}" if re.fullmatch(r"\$[^$]*\$", spelled) else spelled
        lines.append(rf"\newcommand*{{\{name}}}{{{in_math}}} % {spelling.one_line(number.about)}")
    return "\n".join(lines) + "\n"


def to_json(table: Table) -> str:
    """The same as JSON: name to `value`, `text` and `about`."""
    content = {name: asdict(number) for name, number in numbers_of(table).items()}
    return spelling.printable(json.dumps(content, ensure_ascii=False, indent=1)) + "\n"


def _about(table: Table) -> Iterator[tuple[str, Number]]:
    sources = table.sources
    finished = sum(source.status == FINISHED for source in sources.values())
    for name, count, about in (
        ("seeds", table.n, "seeds of a row"),
        ("rows", len(table.rows), "rows, baselines left out"),
        ("trials", len(sources), "trials behind the table"),
        ("runs", finished, "trials of these that have finished"),
    ):
        yield name, Number(count, f"{count}", about)
    for unit, hours in table.compute.items():
        yield unit, Number(hours, f"{hours:.0f}" if hours >= 100 else f"{hours:.2g}", f"{unit} of the finished trials")
    for choice in table.choices:
        if choice.chosen is not None:
            about = f"{choice.over} of {choice.where}, chosen by {choice.criterion}"
            yield f"{choice.where} chosen", Number(choice.chosen, choice.chosen, about)


def _filled(table: Table) -> list[tuple[Row, str, Cell]]:
    """Row, column without its metric, and cell of each number."""
    return [
        (row, column.heading.removesuffix(table.metrics[cell.metric].heading).rstrip(", "), cell)
        for row, column, cell in table.cells()
        if cell.number
    ]


def _cells(table: Table) -> Iterator[tuple[str, Number]]:
    for row, place, cell in _filled(table):
        where = ", ".join(filter(None, (row.label, place)))
        yield from _numbers(f"{row.label} {place} {cell.metric}", where, cell, table)


def _numbers(name: str, where: str, cell: Cell, table: Table) -> Iterator[tuple[str, Number]]:
    """Mean and spread of a cell."""
    assert cell.number
    metric, n = table.metrics[cell.metric], cell.number.n
    yield name, Number(cell.number.mean, cell.mean, f"{where}: {metric.heading}, mean of n = {n}")
    if (std := cell.number.std) is not None:
        about = f"{where}: {metric.heading}, standard deviation of n = {n}"
        yield f"{name} std", Number(std, spelling.number(std, metric), about)


def _best(table: Table) -> Iterator[tuple[str, Number]]:
    """The row with the best mean of the first metric that is ranked, in each column where all rows compete: its place
    along the headings, its numbers, and by how much they exceed those of baselines over as many seeds."""
    lead = next((name for name, metric in table.metrics.items() if metric.better), None)
    filled = _filled(table)
    for place in dict.fromkeys(place for _, place, _ in filled):
        here = {(row.label, cell.metric): (row, cell) for row, at, cell in filled if at == place}
        rivals = [(row, cell) for row, cell in here.values() if cell.metric == lead and cell.contest is not None]
        if not lead or len({cell.contest for _, cell in rivals}) != 1 or len(rivals) < 2:
            continue
        sign = 1 if table.metrics[lead].better == "higher" else -1
        most = max(cell.number.n for _, cell in rivals if cell.number)
        full = [(row, cell) for row, cell in rivals if cell.number and cell.number.n == most]
        best, _ = max(full, key=lambda pair: sign * pair[1].number.mean if pair[1].number else 0.0)
        of = f"the row{f' of {place}' if place else ''} with the best mean {lead}"
        for heading, value in zip(table.headings, best.head, strict=False):
            yield f"{place} best {heading}", Number(value, value, f"{heading} of {of}")
        for (label, name), (_, cell) in here.items():
            mine = here.get((best.label, name))
            if label == best.label:
                yield from _numbers(f"{place} best {name}", of, cell, table)
            elif cell.contest is None and mine and mine[1].contest is not None:
                ours, base = mine[1].number, cell.number
                if ours and base and ours.n == base.n:
                    difference = ours.mean - base.mean
                    text = spelling.number(difference, table.metrics[name])
                    about = f"{table.metrics[name].heading} of {of} minus that of {label}"
                    yield f"{place} best over {label} {name}", Number(difference, text, about)
