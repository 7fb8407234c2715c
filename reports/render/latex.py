"""A table in LaTeX, with booktabs and siunitx."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from reports.render import parts
from reports.spelling import one_line
from reports.tables.model import Cell, Table


def _greek(letter: str) -> str:
    *_, case, _, name = unicodedata.name(letter).split()
    name = name.replace("LAMDA", "LAMBDA")
    return f"$\\{name.lower() if case == 'SMALL' else name.title()}$"


SPELLED = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    # After the end of a row or a rule these would be its options.
    "[": "{[}",
    "*": "{*}",
    '"': "''",
    "–": "--",
    "—": "---",
    "·": r"$\cdot$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\ge$",
    "≤": r"$\le$",
    "…": r"\dots{}",
    **{letter: _greek(letter) for letter in "αβγδζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ"},
    "ε": r"$\varepsilon$",
}
# What LaTeX knows in any font encoding, up to `LAST`: these letters, and ASCII letters under one of these accents
# (grave, acute, circumflex, tilde, diaeresis, caron, cedilla).
LAST = "\u017f"
LETTERS = set("ßæøœåÆØŒÅłŁ")
ACCENTS = set("\u0300\u0301\u0302\u0303\u0308\u030c\u0327")


def to_latex(table: Table) -> str:
    """A LaTeX float as wide as the page, a document of its own or for use with input; the runs are in comments.

    It needs the packages booktabs and siunitx. With one axis it fits a text width of 6.75 inches (ICML).
    """
    templates = parts.environment(
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    templates.filters.update(tex=latex, symbol=latex_symbol, value=latex_value, comment=one_line)
    columns = [_column(cells, table) for cells in zip(*(row.cells for row in table.all_rows), strict=True)]
    dense = len(table.columns) > 11 or len(table.headings) > 1
    return templates.get_template("table.tex.j2").render(
        table=table,
        columns=columns,
        levels=list(_levels(table, [2 if column["beside"] else 1 for column in columns])),
        width=len(table.headings) + sum(2 if column["beside"] else 1 for column in columns),
        groups=parts.run_groups(table),
        size=r"\scriptsize" if dense and table.n > 1 else r"\footnotesize",
        anchor=re.sub(r"[^A-Za-z0-9]+", "-", f"{table.sweep}-{table.slug}").strip("-"),
        blocks=any(row.block for row in table.all_rows),
    )


def _column(cells: Sequence[Cell], table: Table) -> dict[str, Any]:
    """The `digits` before and after the point by which siunitx aligns a column, and whether one stands `beside` it, for
    spreads."""
    printed = [cell.mean for cell in cells if not cell.empty]
    printed += [parts.published(cell, table).split(" ")[0] for cell in cells if cell.published is not None]
    numbers = [number.lstrip("-").partition(".") for number in printed] or [("1", "", "")]
    whole, decimals = (max(len(sides[side]) for sides in numbers) for side in (0, 2))
    sign = "-" if any(number.startswith("-") for number in printed) else ""
    digits = f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"
    return {"digits": digits, "beside": any(cell.std or cell.n or cell.difference for cell in cells)}


def _levels(table: Table, widths: Sequence[int]) -> Iterator[list[dict[str, Any]]]:
    """The headings above the columns, from the top: each with its place among the columns of LaTeX, and whether a rule
    stands below it."""
    for level in parts.levels(table):
        first, spans = len(table.headings) + 1, []
        for name, places in level:
            width = sum(widths[place] for place in places)
            spans.append({"name": name, "first": first, "width": width, "is_ruled": bool(name and len(places) > 1)})
            first += width
        yield spans


def latex(text: str) -> str:
    """Text that LaTeX prints as it reads, on one line. A character that pdfLaTeX lacks becomes its code, [U+6570]."""
    return "".join(map(_latex_character, unicodedata.normalize("NFC", one_line(text))))


def latex_symbol(heading: str) -> str:
    """The heading of an axis for LaTeX: a single letter is a symbol, so it stands in italics."""
    return f"${heading}$" if re.fullmatch("[A-Za-z]", heading) else latex(heading)


def latex_value(spelled: str) -> str:
    """A value as `spelling.values` gives it, for LaTeX: 1e-5 becomes a power of ten."""
    if power := re.fullmatch(r"(-?[0-9.]+)e(-?[0-9]+)", spelled):
        factor, exponent = power.groups()
        return f"$10^{{{exponent}}}$" if factor == "1" else rf"${factor}\times 10^{{{exponent}}}$"
    return f"${spelled}$" if re.fullmatch(r"-?[0-9.]+", spelled) else latex(spelled)


def _latex_character(character: str) -> str:
    if character in SPELLED:
        return SPELLED[character]
    base, *marks = list(unicodedata.normalize("NFD", character))
    is_plain = base.isascii() and base.isprintable() and len(marks) <= 1 and ACCENTS.issuperset(marks)
    if character in LETTERS or (is_plain and character <= LAST):
        return character
    return f"{{[}}U+{ord(character):04X}]"
