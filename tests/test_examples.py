"""The examples in docstrings are run, and give what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest

from support import ROOT

PACKAGES = ("sweeps", "cplearn", "runner", "reports")
WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_give_what_they_say(name: str) -> None:
    assert not doctest.testmod(importlib.import_module(name)).failed
