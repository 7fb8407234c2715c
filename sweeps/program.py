"""What this program is, for those who keep what it has made: a digest of its code, and the versions of libraries."""

from __future__ import annotations

import functools
import hashlib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


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
