"""Claims: which driver runs which trial, so that two of them on one tracking store never run the same one."""

import fcntl
import os
import re
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from cplearn.errors import InputError
from runner.machine.folders import companion
from sweeps.addresses import store_file, without_secrets

POLL_SECONDS = 1.0  # How often a driver that waits for another one looks whether it has ended.
GRACE = 3.0  # Seconds in which a PostgreSQL server must have noticed that a lost connection has ended.
STORE = 0  # The number of the lock that lets one driver at a time set up the store; trials have the others.


class Claims:
    """Claims on trials by their keys, as locks on single bytes of one file; a context manager.

    The system releases them when the process ends, even by kill -9, and child processes do not inherit them. They hold
    on one machine, and between machines where the file lies on a shared file system with locks. POSIX knows one owner a
    process, so two claims of one process do not exclude each other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held: set[str] = set()

    def __enter__(self) -> Self:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"cannot write {self.path}, which keeps two sweeps apart ({error.strerror})") from None
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self.file)

    def take(self, key: str) -> bool:
        """Claim a trial; False if another driver has it."""
        if key not in self.held and self._lock(_number(key)):
            self.held.add(key)
        return key in self.held

    def release(self) -> None:
        """Give up all claims."""
        for key in self.held:
            self._unlock(_number(key))
        self.held.clear()

    def wait(self, keys: Collection[str]) -> None:
        """Return when one of the trials can be claimed, and claim those that can."""
        while not {key for key in keys if self.take(key)}:
            time.sleep(POLL_SECONDS)

    def keep(self) -> None:
        """Make sure that what is claimed still is, as should be done every few seconds; raises InputError if not."""

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let one driver at a time into the block: a fresh store is made once."""
        self._lock(STORE, wait=True)
        try:
            yield
        finally:
            self._unlock(STORE)

    def _lock(self, number: int, *, wait: bool = False) -> bool:
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, number)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(self, number: int) -> None:
        fcntl.lockf(self.file, fcntl.LOCK_UN, 1, number)


class SharedClaims(Claims):
    """Claims as advisory locks of the PostgreSQL database that is the store, so between any machines.

    The server releases them when the driver's connection ends. One that is lost, because the server was restarted say,
    is made anew and the claims are taken again, which `keep` looks after. They also keep two claims of one process
    apart. Messages show `address` without its password.
    """

    def __init__(self, address: str) -> None:
        self.address, self.shown = re.sub(r"^postgresql\+\w+:", "postgresql:", address), without_secrets(address)
        self.held: set[str] = set()
        self.session: tuple[Any, ...] | None = None  # Pid and start of the server's process for the newest connection.

    def __enter__(self) -> Self:
        try:
            import psycopg2

            self.driver = psycopg2
            self._connect()
        except ImportError:
            raise InputError(
                "a store in PostgreSQL needs its driver: pip install 'cplearn-sweeps[postgresql]'"
            ) from None
        except self.driver.Error:
            # Without the server's words, which can repeat parts of the address.
            raise InputError(
                f"the PostgreSQL server of {self.shown} cannot be reached, or it refuses the user"
            ) from None
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()

    def keep(self) -> None:
        try:
            self._rows("SELECT 1")
        except self.driver.Error:
            # While the server is away, nobody else can claim anything; the next call tries again.
            with suppress(self.driver.Error):
                self._connect()

    def _lock(self, number: int, *, wait: bool = False) -> bool:
        return bool(self._ask(f"SELECT pg_{'' if wait else 'try_'}advisory_lock(%s)", number)) or wait

    def _unlock(self, number: int) -> None:
        self._ask("SELECT pg_advisory_unlock(%s)", number)

    def _ask(self, query: str, number: int) -> Any:
        try:
            with suppress(self.driver.Error):
                return self._rows(query, number)[0][0]
            self._connect()
            return self._rows(query, number)[0][0]
        except self.driver.Error:
            raise InputError(
                f"the connection to the PostgreSQL server of {self.shown}, which keeps two sweeps apart, was lost; "
                "run the same command again"
            ) from None

    def _connect(self) -> None:
        """Open a connection, and take what was held over another one; raises InputError if some of it has gone."""
        self.connection = self.driver.connect(
            self.address, connect_timeout=10, keepalives_idle=30, tcp_user_timeout=30000, application_name="cplearn"
        )
        self.connection.autocommit = True
        try:
            self._take_again()
        except BaseException:
            self.connection.close()
            raise

    def _take_again(self) -> None:
        if self.session:
            # The server still has the other end of a connection that only this side has lost.
            earlier = "FROM pg_stat_activity WHERE pid = %s AND backend_start = %s"
            self._rows(f"SELECT pg_terminate_backend(pid) {earlier}", *self.session)
        (self.session,) = self._rows("SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()")
        missing, deadline = [_number(key) for key in self.held], time.monotonic() + GRACE
        while missing:
            again = "SELECT key FROM unnest(%s::bigint[]) AS key WHERE NOT pg_try_advisory_lock(key)"
            missing = [row[0] for row in self._rows(again, missing)]
            if missing and time.monotonic() > deadline:
                raise InputError(
                    f"the connection to the PostgreSQL server of {self.shown} was lost, and another driver has claimed "
                    f"{len(missing)} of the trials since; run the same command again"
                )
            time.sleep(0.1 if missing else 0)

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.connection.cursor() as cursor:
            cursor.execute(query, values)
            return list(cursor.fetchall())


def claims_of(uri: str) -> Claims:
    """The claims of a tracking store, where all drivers that can use it see them; of a server, for which its identity
    stands: those of one machine.

    >>> claims_of("sqlite:////data/mlflow.db").path.as_posix()
    '/data/mlflow.db.claims'
    """
    return SharedClaims(uri) if uri.startswith("postgresql") else Claims(companion(uri, "claims"))


@contextmanager
def looking_at(uri: str) -> Iterator[None]:
    """Be alone with a tracking store that is only read: who reads one that another driver is about to make would try
    to make it, too. Where its file does not exist there is nothing to read, and a server makes its store itself."""
    if uri.startswith("http") or (uri.startswith("sqlite") and not store_file(uri).exists()):
        yield
    else:
        with claims_of(uri) as claims, claims.alone():
            yield


def _number(key: str) -> int:
    """The number of a trial's lock; offsets of files, and PostgreSQL's locks, are signed numbers of 64 bits."""
    return 1 + (int(key, 16) >> 2)
