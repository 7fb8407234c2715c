"""Values in YAML 1.2, and what is refused of it."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sweeps.errors import UserError
from sweeps.loading import load, parse, read_json

VALUES: dict[str, Any] = {
    "1e-1": 0.1, "1E3": 1000.0, ".5": 0.5, "1.": 1.0, "-2": -2, "+3": 3, "0": 0, "0o10": 8, "0x1F": 31,
    ".inf": math.inf, "-.INF": -math.inf, "on": "on", "off": "off", "yes": "yes", "No": "No", "y": "y", "tRUE": "tRUE",
    "true": True, "False": False, "~": None, "null": None, "": None, "1_000": "1_000", "1:30": "1:30", "0b11": "0b11",
    "2001-01-01": "2001-01-01", "'010'": "010", "!!str 010": "010", "!!float 1": 1.0, "!!int '5'": 5, "!!null ~": None,
    "{on: 1, <<: 2}": {"on": 1, "<<": 2}, "[a, {b: [1e2]}]": ["a", {"b": [100.0]}],
}  # fmt: skip


@pytest.mark.parametrize("text", VALUES)
def test_values_are_those_of_yaml_1_2(text: str) -> None:
    value = parse(text, "here")
    assert value == VALUES[text]
    assert type(value) is type(VALUES[text])


REFUSED = {
    "a:\n  b: [1, 010]": 'here, line 2: a.b: 010 has a leading zero; write 10 or "010"',
    "-07": 'here: -07 has a leading zero; write -7 or "-07"',
    "a:\n  b: {c: !!bool maybe}": "here, line 2: a.b.c: 'maybe' is not of the type that its tag names, bool",
    "a: !!timestamp x": "here: a: the tag !!timestamp is not allowed here",
    "a: !!binary x": "the tag !!binary is not allowed",
    "a: !mine x": "the tag !mine is not allowed",
    "!!seq {}": "the tag !!seq is not allowed",
    "a: &a 1": "anchors (&name) and aliases (*name) are not allowed",
    "a: *a": "anchors (&name) and aliases (*name) are not allowed",
    "a: 1\nb: {c: 1, c: 2}": "here, line 2: b: key 'c' is written twice",
    "{1: a, 0x1: b}": "key '0x1' is written twice",
    "{[1]: 2}": "a key must be a word",
    "9" * 400: "more than 64 bits",
    "0x" + "f" * 5_000: "more than 64 bits",
    '"\\0"': "signs in it that no text has",
    '"\\ud800"': "signs in it that no text has",
    '"\\UFFFFFFFF"': "not valid YAML",
    "--- 1\n--- 2": "another document",
    "[" * 60 + "]" * 60: "nested too deeply",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_meant_is_refused_with_its_key_and_line(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text, "here")
    assert REFUSED[text] in str(caught.value)


def test_nested_aliases_are_refused_at_the_first(tmp_path: Path) -> None:
    names = [f"name{i}" for i in range(4_000)]
    lines = "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise(names))
    (tmp_path / "bomb.yaml").write_text(f"name0: &name0 [x, x]\n{lines}")
    assert (tmp_path / "bomb.yaml").stat().st_size > 160_000
    # Of the first line, so nothing is expanded, nor even read to its end.
    with pytest.raises(UserError, match="line 1: anchors"):
        load(tmp_path / "bomb.yaml", "a table's specification")


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "notepad.yaml").write_text("sweep: s\n", encoding="utf-8-sig")
    assert load(tmp_path / "notepad.yaml") == {"sweep": "s"}
    assert read_json('{"a": 1}'.encode("utf-8-sig"), "here") == {"a": 1}


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[" * 100_000, "9" * 5_000, b"\xff\xfe{\x00}\x00"])
def test_json_is_a_value_or_a_sentence(text: str | bytes) -> None:
    with pytest.raises(UserError, match="here: cannot be read as JSON"):
        read_json(text, "here")
