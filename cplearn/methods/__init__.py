"""The self-supervised methods, one module each; the module's name is the method's name (`method.name`).

A method module defines `Settings` (a `cplearn.config.base.MethodSettings`) and `Method` (a
`cplearn.methods.base.Method`); `get` finds it by its name. Methods from outside (`cplearn.outside`) are found by the
name under which they are registered, or by the dotted name of their module. Import `names` and `get` from here. Methods
know nothing of images, optimisers or the training loop: they see features, and what `base` says of a step.
"""

import difflib
import functools
import importlib
import pkgutil
from types import ModuleType

from cplearn import outside
from cplearn.errors import InputError


@functools.cache
def own() -> list[str]:
    """The name of every method of this folder, in alphabetical order.

    >>> own()[:3]
    ['barlow_twins', 'byol', 'cplearn']
    """
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - {"base", "parts"})


def names() -> list[str]:
    """The name of every method, also of those that installed packages register, in alphabetical order."""
    return sorted({*own(), *outside.registered(outside.METHODS)})


def get(name: str) -> ModuleType:
    """The module of the method called `name`.

    Raises InputError, with the most similar name, if there is none, and where a module from outside cannot be imported.

    >>> get("vicreg").Settings().variance
    25.0
    """
    if name in own():
        return importlib.import_module(f"{__name__}.{name}")
    if outside.has(outside.METHODS, name):
        return outside.module(outside.METHODS, name, "method.name", ["Settings", "Method"])
    near = difflib.get_close_matches(str(name), names(), 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"unknown method.name {name!r}; {hint}Known: {', '.join(names())}", key="method.name")
