"""Calls of a tracking store that are repeated while it is away: restarted, locked, overloaded, or answers get lost."""

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sweeps.errors import StoreError
from sweeps.secrets import reason_of

T = TypeVar("T")

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # Seconds before each further attempt of a call that somebody waits for.
CONFLICT, TOO_MANY_REQUESTS = 409, 429


def is_transient(error: BaseException) -> bool:
    """Whether a call may succeed when it is repeated, to judge by the error of MLflow, of requests or of the system."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if hasattr(error, "get_http_status_code"):
        status = error.get_http_status_code()
    if status is None:
        return isinstance(error, OSError)
    return status >= 500 or status in (CONFLICT, TOO_MANY_REQUESTS)


def repeated(call: Callable[[], T], what: str = "the tracking store", *, once: bool = False) -> T:
    """What `call` returns, after a few attempts if need be, or at `once`; raises StoreError if `what` stays away."""
    pauses = iter(() if once else PAUSES)
    while True:
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            pause = next(pauses, None)
            if pause is None:
                raise StoreError(
                    f"{what} is away ({reason_of(error)}); run the same command again when it is back"
                ) from error
        time.sleep(pause)


class Repeated:
    """An object whose methods are `repeated`: a client of a server that is called `what`. After the server has stayed
    away for one call, the others are not waited for."""

    def __init__(self, target: object, what: str) -> None:
        self._target, self._what, self._is_away = target, what, False

    def __getattr__(self, name: str) -> Any:
        return functools.partial(self._call, getattr(self._target, name))

    def _call(self, method: Callable[..., Any], *arguments: Any, **further: Any) -> Any:
        try:
            answer = repeated(functools.partial(method, *arguments, **further), self._what, once=self._is_away)
        except StoreError:
            self._is_away = True
            raise
        self._is_away = False
        return answer
