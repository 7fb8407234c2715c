"""Places of files: a driver's temporary ones, this program's caches, and what belongs to a tracking store beside it."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cplearn.errors import InputError
from sweeps.addresses import store_file

PREFIX, LOCK = "cplearn-", "driver.lock"
LONGEST = 18
"""Most bytes of the path in which such a folder is made. A socket's path has at most 103 on macOS (107 on Linux); of
these Ray takes 64 below `ray` in the folder."""


def temporary_place() -> Path:
    """Where temporary files go: TMPDIR, or /tmp if that would make the paths of Ray's sockets too long. Raises
    InputError if nothing can be written there."""
    try:
        folder = tempfile.gettempdir()
        if len(os.fsencode(folder)) > LONGEST:
            folder = "/tmp"
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"temporary files cannot be written ({error.strerror}); let TMPDIR name a folder that can, with a path of "
            f"at most {LONGEST} bytes, or make room in /tmp"
        ) from None
    return Path(folder)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that nobody else can read, and that is removed at the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=temporary_place()))
    # Its lock is taken before it gets its name, by which others know the folder for one of a driver.
    lock = os.open(folder / "new", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(folder / "new", folder / LOCK)
    try:
        # Folders of this user's drivers that have died, which has released their locks.
        for path in folder.parent.glob(f"{PREFIX}*/{LOCK}"):
            with suppress(OSError):
                if path.stat().st_uid == os.getuid():
                    other = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
                    try:
                        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        _remove(path.parent)
                    finally:
                        os.close(other)
        yield folder
    finally:
        _remove(folder)
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


def companion(uri: str, kind: str) -> Path:
    """The file `kind` of the tracking store at `uri`: beside its own file if it is SQLite, else in the user's cache
    folder, where a server goes by what it holds (`reports.store.identity`)."""
    if uri.startswith("sqlite"):
        path = store_file(uri)
        return path.with_name(f"{path.name}.{kind}")
    name = hashlib.blake2b(uri.encode(), digest_size=8).hexdigest()
    return cache_folder() / f"{name}.{kind}"


def cache_folder() -> Path:
    """This program's folder among the user's caches; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "cplearn")


def check_folder(option: str, folder: Path) -> None:
    """Raise InputError, with the option that names it, unless a folder can be written to; creates nothing."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise InputError(f"{option} {folder}: cannot write there ({error.strerror})") from None
