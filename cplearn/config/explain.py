"""A complaint of pydantic's as one sentence that names the setting."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from pydantic import ValidationError

from cplearn.errors import InputError


def explain(error: ValidationError, known: Collection[str], prefix: str = "") -> InputError:
    """One sentence for the first of pydantic's complaints; `known` are the dotted keys that a trial accepts."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    key = prefix + ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        leaf = key.rsplit(".", 1)[-1]
        near = difflib.get_close_matches(key, known, 1, cutoff=0.75) or [
            k for k in known if k.rsplit(".", 1)[-1] == leaf
        ]
        near = near or difflib.get_close_matches(key, known, 1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return InputError(f"unknown key {key!r}; {hint}", key=key)
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
    message = message[0].lower() + message[1:]
    given = first["input"]
    shown = f", not {given!r}" if not isinstance(given, Mapping) or not given else ""
    return InputError(f"{key}: {message}{shown}", key=key)
