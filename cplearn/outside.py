"""Data sets, methods and backbones from outside this repository.

An installed package registers its own by entry points of the groups `cplearn.datasets`, `cplearn.methods` and
`cplearn.backbones`; a module on the path needs no registration, its dotted name stands where theirs would. Names of
this repository cannot be replaced. Nothing here knows what such a module holds.
"""

import functools
import hashlib
import importlib
import importlib.util
import json
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from cplearn.errors import InputError

DATASETS, METHODS, BACKBONES = "cplearn.datasets", "cplearn.methods", "cplearn.backbones"


@functools.cache
def registered(group: str) -> dict[str, EntryPoint]:
    """What installed packages register in a group, by name; of two packages with one name the first on the path."""
    return {entry.name: entry for entry in reversed(tuple(entry_points(group=group)))}


def is_dotted(name: object) -> bool:
    """Whether a name is that of a module in a package, `my_lab.my_method` for instance."""
    return isinstance(name, str) and "." in name and all(part.isidentifier() for part in name.split("."))


def has(group: str, name: object) -> bool:
    """Whether a name that this repository does not have is one from outside."""
    return is_dotted(name) or (isinstance(name, str) and name in registered(group))


def module(group: str, name: str, key: str, needs: Sequence[str]) -> ModuleType:
    """The module of a name from outside, which has the attributes `needs`.

    Raises InputError, about the setting `key`, if it cannot be imported or lacks one.
    """
    try:
        loaded: ModuleType = importlib.import_module(name) if is_dotted(name) else registered(group)[name].load()
    except InputError:
        raise
    except ModuleNotFoundError as error:
        what = f"{key} {name!r}: there is no module {error.name!r}; install it, or put its folder on PYTHONPATH"
        raise InputError(what, key=key) from error
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{key} {name!r}: its module cannot be imported ({why})", key=key) from error
    if lacking := [need for need in needs if not hasattr(loaded, need)]:
        what = f"{key} {name!r}: its module has no {' and no '.join(lacking)}; docs/extend.md has a complete example"
        raise InputError(what, key=key)
    return loaded


def version(group: str, name: str) -> str:
    """What tells the code of a name from other code: distribution and version of what is registered, a digest of the
    whole package of a module that is named, and both where a distribution is installed for editing."""
    if is_dotted(name):
        return _digest(name.partition(".")[0])
    entry = registered(group)[name]
    if entry.dist is None:
        return _digest(entry.module.partition(".")[0])
    origin = json.loads(entry.dist.read_text("direct_url.json") or "{}")
    edited = f" {_digest(entry.module.partition('.')[0])}" if origin.get("dir_info", {}).get("editable") else ""
    return f"{entry.dist.name} {entry.dist.version}{edited}"


def paths(names: Iterable[str]) -> list[str]:
    """The folders and files that other machines need for the modules among these names: of each its whole package."""
    packages = sorted({name.partition(".")[0] for name in names if is_dotted(name)})
    return [str(path) for package in packages for path in _locations(package)]


def _locations(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    return [Path(place) for place in spec.submodule_search_locations or [spec.origin or ""]] if spec else []


@functools.cache
def _digest(package: str) -> str:
    """Sixteen hexadecimal digits of the source text of a package or of a module; of what this process has imported."""
    digest = hashlib.blake2b(digest_size=8)
    for place in _locations(package):
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(f"{path.relative_to(place.parent)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
