"""A table in LaTeX, with booktabs and siunitx."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from reports.render import parts
from reports.spelling import one_line
from reports.tables.model import Cell, Row, Table


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
    templates.filters.update(tex=latex, symbol=latex_symbol, comment=one_line)
    columns = [_LatexColumn.of(cells, table) for cells in zip(*(row.cells for row in table.all_rows), strict=True)]
    dense = len(table.columns) > 11 or len(table.headings) > 1
    return templates.get_template("table.tex.j2").render(
        table=table,
        layout="l" * len(table.headings) + "".join(column.layout for column in columns),
        header=list(_latex_header(table, columns)),
        width=len(table.headings) + sum(column.width for column in columns),
        head=lambda row: _latex_head(row, len(table.headings)),
        cells=lambda row: [column.cell(cell) for column, cell in zip(columns, row.cells, strict=True)],
        published=lambda row: [column.published(cell, table) for column, cell in zip(columns, row.cells, strict=True)],
        groups=parts.run_groups(table),
        size=r"\scriptsize" if dense and table.n > 1 else r"\footnotesize",
        anchor=re.sub(r"[^A-Za-z0-9]+", "-", f"{table.sweep}-{table.slug}").strip("-"),
        blocks=any(row.block for row in table.all_rows),
    )


@dataclass(frozen=True)
class _LatexColumn:
    """A column of numbers that siunitx aligns, with one beside it for spreads where there are any."""

    digits: str
    beside: bool

    @classmethod
    def of(cls, cells: Sequence[Cell], table: Table) -> Self:
        printed = [cell.mean for cell in cells if not cell.empty]
        printed += [parts.published(cell, table).split(" ")[0] for cell in cells if cell.published is not None]
        digits = [number.lstrip("-").partition(".") for number in printed] or [("1", "", "")]
        whole, decimals = (max(len(sides[side]) for sides in digits) for side in (0, 2))
        sign = "-" if any(number.startswith("-") for number in printed) else ""
        beside = any(cell.std or cell.n or cell.difference for cell in cells)
        return cls(f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}", beside)

    @property
    def width(self) -> int:
        return 1 + self.beside

    @property
    def layout(self) -> str:
        return f"S[table-format={self.digits}]" + (r"@{\,}l" if self.beside else "")

    def cell(self, cell: Cell) -> str:
        if cell.empty:
            text = latex(cell.mean)
            return rf"\multicolumn{{{self.width}}}{{c}}{{{text}}}" if text else " & " * self.beside
        mean = rf"\bfseries {cell.mean}" if cell.bold else cell.mean
        if not self.beside:
            return mean
        spread = rf"{{\tiny$\pm${re.sub(r'^0[.]', '.', cell.std)}}}" if cell.std else ""
        fewer = rf"{{\tiny\,($n{{=}}{cell.n}$)}}" if cell.n else ""
        return f"{mean} & {spread}{fewer}"

    def published(self, cell: Cell, table: Table) -> str:
        number, _, difference = parts.published(cell, table).partition(" ")
        if not number:
            return " & " * self.beside
        return f"{number} & {{\\tiny{latex(difference)}}}" if self.beside else number


def _latex_header(table: Table, columns: Sequence[_LatexColumn]) -> Iterator[tuple[str, str]]:
    """A line of headings for each level, and the rules below it."""
    lead = "& " * (len(table.headings) - 1)
    for level in parts.levels(table):
        position, cells, rules = len(table.headings), [], []
        for name, places in level:
            width = sum(columns[place].width for place in places)
            cells.append(rf"& \multicolumn{{{width}}}{{c}}{{{latex_symbol(name)}}}")
            if name and len(places) > 1:
                rules.append(rf"\cmidrule(lr){{{position + 1}-{position + width}}}")
            position += width
        yield lead + " ".join(cells) + r" \\", "".join(rules)
    lowest = [
        rf"& \multicolumn{{{column.width}}}{{c}}{{{latex(heading.short)}}}"
        for heading, column in zip(table.columns, columns, strict=True)
    ]
    yield " & ".join(map(latex_symbol, table.headings)) + " " + " ".join(lowest) + r" \\", ""


def _latex_head(row: Row, axes: int) -> str:
    fewer = rf" {{\scriptsize($n{{=}}{row.n}$)}}" if row.n else ""
    if row.is_named:
        return rf"\multicolumn{{{axes}}}{{@{{}}l}}{{{latex(row.label)}{fewer}}}"
    return " & ".join(map(latex_value, row.head)) + fewer


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
