"""Settings in groups and by dotted names, and the identity that follows from them: equal keys mean equal numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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
    own = settings.get(leaf)
    # A group of another name has other settings; those of the old one mean nothing to it.
    if isinstance(value, Mapping) and isinstance(own, dict) and value.get("name", own.get("name")) == own.get("name"):
        own.update(value)
    else:
        settings[leaf] = value


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by dotted names."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):  # quicker than Mapping by far, and a plan flattens thousands of trials
            for inner, leaf in flat(value).items():
                found[f"{key}.{inner}"] = leaf
        else:
            found[key] = value
    return found


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
