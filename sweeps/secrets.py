"""Secrets, which no text may show: passwords of addresses, and tokens of the environment."""

import functools
import os
import re
from urllib.parse import parse_qsl, unquote

HIDDEN = "***"
LEAST = 6
"""Characters of a secret that is cut out wherever it stands; to hide each `on` would leave nothing to read, so a
shorter one is only cut out of addresses."""
WORDS = {"SECRET", "TOKEN", "PASSWORD", "PASSWD", "PGPASSWORD", "KEY"}
ADDRESS = re.compile(r"(\b[a-z][a-z0-9+.-]*://)(?:[^\s/:@]+:(?!\d+/)\S*|[^\s/]*)@", re.IGNORECASE)
"""An address up to its host. What follows a colon is a password with any characters, unless it is a port."""

_addresses: set[str] = set()


def know(address: str) -> None:
    """From now on `hide_secrets` hides what is secret in a store's address; the environment's it finds by itself."""
    if not address.startswith("sqlite"):
        _addresses.add(address)


def is_secret(name: str) -> bool:
    """Whether a variable of the environment, or a parameter of an address, holds a secret, to judge by its name.

    >>> is_secret("AWS_SECRET_ACCESS_KEY"), is_secret("TOKENIZERS_PARALLELISM"), is_secret("RAY_AUTH_TOKEN_PATH")
    (True, False, False)
    """
    words = name.upper().split("_")
    return words[-1] not in ("FILE", "PATH") and not WORDS.isdisjoint(words)


def hide_secrets(text: str) -> str:
    """A text that a library wrote, without users and passwords of addresses and without the environment's secrets,
    plain or percent-encoded in whole or in part.

    >>> hide_secrets("API request to https://ann:p@ss/w?rd@host/api failed")
    'API request to https://host/api failed'
    """
    secrets, users = {value for name, value in os.environ.items() if is_secret(name)}, set[str]()
    for address in (*_addresses, *filter(ADDRESS.match, os.environ.values())):
        user, _, password = address.partition("://")[2].rpartition("@")[0].partition(":")
        secrets.add(password or user)
        users.update([user] if password else [])
    for address in _addresses:
        secrets.update(value for name, value in parse_qsl(address.rpartition("?")[2]) if is_secret(name))
    pattern = _pattern(frozenset(secrets), frozenset(users - {""}))
    return ADDRESS.sub(r"\1", pattern.sub(HIDDEN, text) if pattern else text)


def reason_of(error: BaseException) -> str:
    """What a library says went wrong, in one line without secrets; the kind of the error where it says nothing.

    >>> reason_of(OSError("no route to https://ann:p@ss@host" + chr(10) + "try again")), reason_of(OSError())
    ('no route to https://host', 'OSError')
    """
    return next(iter(hide_secrets(str(error)).strip().splitlines()), type(error).__name__)


@functools.lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str], users: frozenset[str]) -> re.Pattern[str] | None:
    """What matches the secrets anywhere, and users in quotes or as a parameter: a user's name may be a common word."""
    spelled = {form for secret in secrets for form in (secret, unquote(secret)) if len(secret) >= LEAST}
    parts = [_any_spelling(secret) for secret in sorted(spelled, key=len, reverse=True)]
    parts += [rf"(?<=[\"'=]){_any_spelling(unquote(user))}(?=[\"'&:@])" for user in sorted(users)]
    return re.compile("|".join(parts)) if parts else None


def _any_spelling(secret: str) -> str:
    """A pattern for a secret of which any characters may be percent-encoded; letters and digits never are."""
    encoded = ("".join(f"%{byte:02x}" for byte in sign.encode(errors="surrogateescape")) for sign in secret)
    return "".join(
        sign if sign.isascii() and sign.isalnum() else f"(?:{re.escape(sign)}|(?i:{code}))"
        for sign, code in zip(secret, encoded, strict=True)
    )
