"""The exception of `sweeps`, `reports` and `runner` for what the user has asked for and cannot have."""

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(ValueError):
    """A request cannot be met as it stands; the message is one sentence that says what, where and what to do.

    The command line treats it like `cplearn.errors.InputError`, the class of the trainer, which knows no other package.
    """


class StoreError(UserError):
    """The tracking store, or what it holds, cannot be read."""


def nearest(word: str, known: Sequence[str]) -> str:
    """A hint at the known word that an unknown one is most like.

    >>> nearest("search.trails", ["search.trials", "search.seed"])
    "did you mean 'search.trials'?"
    >>> nearest("x", ["uniform", "choice"])
    'there are: uniform, choice'
    """
    leaf = word.rpartition(".")[2]
    near = difflib.get_close_matches(word, known, 1) or difflib.get_close_matches(leaf, known, 1)
    return f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"


def explain(error: "ValidationError", known: Sequence[str], prefix: str = "") -> str:
    """One sentence for the first complaint of pydantic; `known` are the keys that could have been written, `prefix` is
    what comes before those of the model."""
    first = error.errors(include_url=False)[0]
    key = prefix + ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}; {nearest(key, known)}"
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    where = f"{key}: " if key and first["type"] != "value_error" else ""
    shown = "" if isinstance(first["input"], Mapping | list) else f", not {first['input']!r}"
    return f"{where}{message[0].lower()}{message[1:]}{shown}"
