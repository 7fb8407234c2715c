"""Numbers and awkward names in markdown and LaTeX."""

from __future__ import annotations

from typing import Any

import pytest

from reports import spelling
from reports.render import files, latex
from reports.tables import spec


@pytest.mark.parametrize(
    ("plain", "spelled"),
    [
        ("50% of_my#set & more", r"50\% of\_my\#set \& more"),
        (r"a\b{c}$d^e~f", r"a\textbackslash{}b\{c\}\$d\textasciicircum{}e\textasciitilde{}f"),
        ("β = 0.1 ± 2 – τ, Λ", r"$\beta$ = 0.1 $\pm$ 2 -- $\tau$, $\Lambda$"),
        ("Zoë, Łódź", "Zoë, Łódź"),
        ("数据 <b>", r"{[}U+6570]{[}U+636E] $<$b$>$"),
        ("[12] *best*", "{[}12] {*}best{*}"),
        ("e\u0301, e\u0303", "é, {[}U+1EBD]"),
        ("a\x1b[31m\u202eb", "a{[}31mb"),
        ("two\n  lines", "two lines"),
    ],
)
def test_latex_prints_text_as_it_reads(plain: str, spelled: str) -> None:
    assert latex.latex(plain) == spelled


@pytest.mark.parametrize(
    ("plain", "markdown"),
    [
        ("raw_pixels|*", r"raw\_pixels\|\*"),
        ("<b>[x](y)`", r"\<b\>\[x\](y)\`"),
        ("a\\|b", r"a\\\|b"),
        ("~~$x$ &amp;\n", r"\~\~\$x\$ \&amp;"),
        ("# a", r"\# a"),
        ("- a :smile: 1. b: c", r"\- a \:smile: 1. b: c"),
        ("12. a", r"12\. a"),
        ("-0.5", "-0.5"),
    ],
)
def test_markdown_prints_text_as_it_reads(plain: str, markdown: str) -> None:
    assert files.markdown(plain) == markdown


@pytest.mark.parametrize(
    ("items", "spelled"),
    [
        ([0.01, 0.25, 1.0, 10.0], ["0.01", "0.25", "1", "10"]),
        ([10, 16384, 500000], ["10", "16384", "500000"]),
        ([1e-5, 3.2e-4, 1e38], ["1e-5", "0.00032", "1e38"]),
        ([0.123456789, 0.9876543], ["0.1235", "0.9877"]),
        ([0.12345678, 0.12345912], ["0.123457", "0.123459"]),
        ([True, None, "none"], ["true", "–", "none"]),
        ([1, 1.0, 2], ["1", "1", "2"]),
    ],
)
def test_axis_values_are_short_and_distinct(items: list[Any], spelled: list[str]) -> None:
    assert spelling.values(items) == spelled


@pytest.mark.parametrize(
    ("spelled", "expected"),
    [
        ("0.01", "$0.01$"),
        ("-3", "$-3$"),
        ("1e-5", "$10^{-5}$"),
        ("3.2e-7", r"$3.2\times 10^{-7}$"),
        ("a_b", r"a\_b"),
        ("٣", "{[}U+0663]"),
    ],
)
def test_axis_values_in_latex(spelled: str, expected: str) -> None:
    assert latex.latex_value(spelled) == expected


@pytest.mark.parametrize(("numbers", "spelled"), [([0], "0"), ([1, 0], "0, 1"), ([7, 0, 1, 2, 9], "0–2, 7, 9")])
def test_seeds_are_listed_in_ranges(numbers: list[int], spelled: str) -> None:
    assert spelling.ranges(numbers) == spelled


def test_axes_are_named_by_symbol_or_by_what_tells_them_apart() -> None:
    assert spelling.headings(["method.beta", "method.codes", "batch_size"]) == ["β", "c", "batch size"]
    assert spelling.leaves(["method.name", "backbone.name", "epochs"]) == ["method.name", "backbone.name", "epochs"]
    assert [latex.latex_symbol(heading) for heading in ("β", "c", "%")] == [r"$\beta$", "$c$", r"\%"]


def test_every_metric_of_the_table_is_placed_in_the_terminal() -> None:
    table = spec.read("sweep")
    essential = [name for group in table.essential for name in group]
    assert sorted(essential) == sorted(table.shown)
