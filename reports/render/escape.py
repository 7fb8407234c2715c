"""Any text in markdown and in LaTeX, so that it is printed as it reads."""

from __future__ import annotations

import re
import unicodedata


def _greek(letter: str) -> str:
    *_, case, _, name = unicodedata.name(letter).split()
    name = name.replace("LAMDA", "LAMBDA")
    return f"$\\{name.lower() if case == 'SMALL' else name.title()}$"


LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
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
# What LaTeX knows in any font encoding: these letters, and ASCII letters under one of these accents (grave, acute,
# circumflex, tilde, diaeresis, caron, cedilla).
LETTERS = set("ßæøœåÆØŒÅłŁ")
ACCENTS = set("\u0300\u0301\u0302\u0303\u0308\u030c\u0327")


def latex(text: str) -> str:
    """Text that LaTeX prints as it reads, on one line. A character that pdfLaTeX lacks becomes its code, [U+6570]."""
    return "".join(map(_latex_character, one_line(text)))


def markdown(text: str) -> str:
    """Text that markdown prints as it reads, on one line and safe inside a table."""
    return re.sub(r"([\\`*_\[\]<>|~$&])", r"\\\1", one_line(text))


def latex_symbol(heading: str) -> str:
    """The heading of an axis for LaTeX: a single letter is a symbol, so it stands in italics."""
    return f"${heading}$" if len(heading) == 1 and heading.isascii() else latex(heading)


def latex_value(spelled: str) -> str:
    """A value as `spelling.values` gives it, for LaTeX: 1e-5 becomes a power of ten."""
    if power := re.fullmatch(r"(-?[\d.]+)e(-?\d+)", spelled):
        factor, exponent = power.groups()
        return f"$10^{{{exponent}}}$" if factor == "1" else rf"${factor}\times 10^{{{exponent}}}$"
    return f"${spelled}$" if re.fullmatch(r"-?[\d.]+", spelled) else latex(spelled)


def one_line(text: str) -> str:
    """The text without line breaks and doubled spaces."""
    return " ".join(text.split())


def _latex_character(character: str) -> str:
    if character in LATEX:
        return LATEX[character]
    decomposed = unicodedata.normalize("NFD", character)
    base, marks = decomposed[0], decomposed[1:]
    if character in LETTERS or (
        base.isascii() and base.isprintable() and len(marks) <= 1 and ACCENTS.issuperset(marks)
    ):
        return character
    return f"[U+{ord(character):04X}]"
