"""The methods, one module each; the module's name is the method's name.

A method module defines `Settings` (a `cplearn.config.trial.MethodSettings`) and `Method` (a
`cplearn.methods.base.Method`).
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from types import ModuleType

from cplearn.errors import InputError

NOT_METHODS = {"base"}


def names() -> list[str]:
    """Every method that `get` accepts."""
    return list(_names())


@functools.cache
def _names() -> tuple[str, ...]:
    # Asked for with every trial that is read; the folder is listed once.
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in NOT_METHODS and not m.ispkg))


def get(name: str) -> ModuleType:
    """The module of one method.

    Raises InputError, with the nearest known name, if there is none.
    """
    if name not in names():
        near = difflib.get_close_matches(str(name), names(), 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"unknown method.name {name!r}; {hint}Known: {', '.join(names())}", key="method.name")
    return importlib.import_module(f"{__name__}.{name}")
