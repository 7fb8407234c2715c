"""The identity of a trial: equal keys mean equal numbers, so a finished trial is never run again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


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
