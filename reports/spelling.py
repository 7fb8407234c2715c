"""How settings, their values, seeds and errors are spelled in tables and figures; and text that is safe in any file."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reports.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd

SYMBOLS = {
    "arm": "Method",
    "method.name": "Method",
    "dataset": "Data set",
    "method.beta": "β",
    "method.codes": "c",
    "method.embedding_dim": "f",
    "method.off_diagonal": "λ",
    "method.temperature": "τ",
    "method.epsilon": "ε",
    "method.gamma": "γ",
    "method.weight": "λ",
    "optimizer.lr": "learning rate",
}
SHOWN_AS = {
    "barlow_twins": "Barlow Twins",
    "byol": "BYOL",
    "cplearn": "CPLearn",
    "dino": "DINO",
    "gedi": "GEDI",
    "lejepa": "LeJEPA",
    "mmcr": "MMCR",
    "self_classifier": "Self-Classifier",
    "simclr": "SimCLR",
    "simdino": "SimDINO",
    "simsiam": "SimSiam",
    "supervised": "Supervised",
    "swav": "SwAV",
    "vicreg": "VICReg",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "digits": "Digits",
    "imagenet100": "ImageNet-100",
    "stl10": "STL-10",
    "svhn": "SVHN",
    "tiny-imagenet": "Tiny ImageNet",
}
"""How methods and data sets are called."""
REASON_LENGTH = 100  # Most characters of an error's last line.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that steer a terminal or turn the direction of a text, and halves of characters, which no file can hold;
tabs and line breaks are none of them."""


def printable(text: str) -> str:
    """The text without control characters, apart from tabs and line breaks."""
    return CONTROL.sub("", text)


def one_line(text: str) -> str:
    """The text without control characters, line breaks and doubled spaces."""
    return " ".join(printable(text).split())


def frame_text(frame: pd.DataFrame) -> str:
    """A frame without its index as CSV. Text that a spreadsheet would take for a formula begins with an apostrophe;
    numbers stay numbers."""
    safe = frame.copy(deep=False)
    for name in frame.select_dtypes(exclude=["number", "bool"]):
        cells = {text: _csv_cell(text) for text in frame[name].dropna().unique() if isinstance(text, str)}
        if any(text != cell for text, cell in cells.items()):
            safe[name] = [cells.get(value, value) for value in frame[name]]
    return safe.to_csv(index=False, lineterminator="\n")


def _csv_cell(text: str) -> str:
    text = printable(text)
    is_number = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]inf", text)
    return f"'{text}" if re.match(r"\s*[=+\-@]", text) and not is_number else text


def leaves(axes: Sequence[str]) -> list[str]:
    """A short name for each axis: the last part of its key, or the whole key where two axes share that part."""
    ends = [axis.rsplit(".", 1)[-1] for axis in axes]
    return [end if ends.count(end) == 1 else axis for axis, end in zip(axes, ends, strict=True)]


def headings(axes: Sequence[str]) -> list[str]:
    """Each axis as a reader knows it: the paper's symbol, if no other of them has it, or its short name in words."""
    symbols = [SYMBOLS.get(axis) for axis in axes]
    names = zip(symbols, leaves(axes), strict=True)
    return [symbol if symbol and symbols.count(symbol) == 1 else leaf.replace("_", " ") for symbol, leaf in names]


def values(items: Sequence[Any]) -> list[str]:
    """The values of an axis as text. A number of more than six digits, drawn at random say, is rounded to four, or to
    as many as keep distinct numbers distinct."""
    for digits in range(4, 18):
        spelled = [_value(item, digits) for item in items]
        if len(set(spelled)) == len(set(items)):
            break
    return spelled


def number(value: float, metric: Metric, sign: str = "") -> str:
    """A value of a metric with its decimals, in per cent where it is shown so; a zero has no minus sign."""
    return format(value * (100 if metric.percent else 1), f"{sign}z.{metric.decimals}f")


def ranges(numbers: Sequence[int]) -> str:
    """Sorted whole numbers, runs of three or more shortened: 0–4, 7, 9."""
    texts = []
    # In a run of neighbours the numbers grow as their places do.
    for _, run in itertools.groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        first, *others = [str(number) for _, number in run]
        texts += [f"{first}–{others[-1]}"] if len(others) > 1 else [first, *others]
    return ", ".join(texts)


def seeds(numbers: Sequence[int]) -> str:
    """`seed 3`, or `seeds 0–4, 7`."""
    return f"{'seed' if len(numbers) == 1 else 'seeds'} {ranges(numbers)}"


def last_line(error: Any) -> str:
    """The last line of an error's text, which says what went wrong; empty where there is no text."""
    last = error.strip().rpartition("\n")[2].strip().rstrip(".") if isinstance(error, str) else ""
    return last if len(last) <= REASON_LENGTH else last[: REASON_LENGTH - 1] + "…"


def _value(item: Any, digits: int) -> str:
    if item is None:
        return "–"
    if isinstance(item, bool):
        return str(item).lower()
    if isinstance(item, float):
        exact = f"{item:.6g}"
        return re.sub(r"e\+?(-?)0*(\d)", r"e\1\2", exact if float(exact) == item else f"{item:.{digits}g}")
    return str(item)
