"""Settings in groups and by dotted names, and identities: of a trial and of a sweep, by their settings and data, and of
this program, by its code."""

import functools
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy in which dotted keys have become groups."""
    return overlay({}, settings)


def overlay(settings: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`settings`, changed: those of `changes`, dotted or in groups, are assigned to it one by one."""
    for key, value in changes.items():
        assign(settings, str(key), nested(value) if isinstance(value, Mapping) else value)
    return settings


def assign(settings: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key; groups on its way that do not exist yet are made. A group given as value is laid over the one
    there, unless it has another name."""
    *groups, leaf = key.split(".")
    for group in groups:
        inner = settings.get(group)
        if isinstance(inner, str):  # `method: cplearn` is short for `method: {name: cplearn}`
            inner = {"name": inner}
        settings[group] = inner if isinstance(inner, dict) else {}
        settings = settings[group]
    present = settings.get(leaf)
    # A group of another name has other settings; those of the old one mean nothing to it.
    if isinstance(value, Mapping) and isinstance(present, dict) and value.get("name") in (None, present.get("name")):
        present.update(value)
    else:
        settings[leaf] = value


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    dotted: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):  # quicker than Mapping by far, and a plan flattens thousands of trials
            for inner, leaf in flat(value).items():
                dotted[f"{key}.{inner}"] = leaf
        else:
            dotted[key] = value
    return dotted


def trial_key(settings: Mapping[str, Any], fingerprint: str, numerics: int) -> str:
    """Sixteen hexadecimal digits from a trial's deviations from the defaults, its data and the training numerics.

    `settings` are the dotted settings that differ from their defaults, so that a setting added to the schema later does
    not change the keys of trials that never heard of it. Their order does not matter.
    """
    text = json.dumps([numerics, fingerprint, settings], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def sweep_key(name: str, shared: Mapping[str, Any], fingerprints: list[str]) -> str:
    """What makes two invocations the same sweep: its name, what its trials share and their data, not how far its axes
    reach or how many seeds it has. An enlarged grid continues the sweep."""
    text = json.dumps([name, shared, sorted(fingerprints)], sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@functools.cache
def code_state(packages: tuple[str, ...], libraries: tuple[str, ...]) -> tuple[str, ...]:
    """A digest of all files of some packages of ours, and libraries with their versions.

    >>> code_state(("sweeps",), ("numpy",)) == code_state(("sweeps",), ())
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    root = Path(__file__).resolve().parents[1]
    for path in sorted(path for package in packages for path in (root / package).rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    versions = []
    for library in libraries:
        with suppress(PackageNotFoundError):
            versions.append(f"{library} {version(library)}")
    return digest.hexdigest(), *versions
