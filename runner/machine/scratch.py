"""The folder of a driver's temporary files; the next driver removes what killed ones have left."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cplearn.errors import InputError

PREFIX, LOCK = "cplearn-", "driver.lock"
LONGEST = 18
"""Most bytes of the path in which such a folder is made. A socket's path has at most 103 on macOS (107 on Linux); of
these Ray takes 64 below `ray` in the folder."""


def place() -> Path:
    """Where temporary files go: TMPDIR, or /tmp if that would make the paths of Ray's sockets too long. Raises
    InputError if nothing can be written there."""
    try:
        found = tempfile.gettempdir()
        if len(os.fsencode(found)) > LONGEST:
            found = "/tmp"
        tempfile.TemporaryFile(dir=found).close()
    except OSError as error:
        raise InputError(
            f"temporary files cannot be written ({error.strerror}); let TMPDIR name a folder that can, with a path of "
            f"at most {LONGEST} bytes, or make room in /tmp"
        ) from None
    return Path(found)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that nobody else can read, and that is removed at the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place()))
    # Its lock is taken before it gets its name, by which others know the folder for one of a driver.
    lock = os.open(folder / "new", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(folder / "new", folder / LOCK)
    try:
        _remove_abandoned(folder.parent)
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def _remove_abandoned(place: Path) -> None:
    """Remove the folders of this user's drivers that have died; the system has released their locks."""
    for path in place.glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError):
            if path.stat().st_uid != os.getuid():
                continue
            lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(path.parent)
            finally:
                os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a folder, its lock last: what a process that is ending still writes there is left to the next driver."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)
    if os.listdir(folder) == [LOCK]:
        shutil.rmtree(folder, ignore_errors=True)
