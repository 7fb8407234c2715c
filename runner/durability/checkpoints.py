"""Checkpoints: the state of a trial after an epoch, in one file named by the trial's key and the epoch."""

import hashlib
import io
import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from pyarrow import ArrowException, fs

from cplearn.errors import InputError

MAGIC = b"cplearn checkpoint 1\n"
DIGEST = 32
KEPT = 2  # Checkpoints kept of a trial: should the newest be damaged, the one before serves.

State = dict[str, Any]


class Unusable(Exception):
    """A checkpoint cannot be used; the message says why."""


class Checkpoints:
    """The checkpoints in a folder, given as a path or an address (s3://, gs://, hdfs://, file://).

    `place` says it for workers, which run in other directories. Raises InputError for an address that cannot be
    understood.
    """

    def __init__(self, place: str) -> None:
        self.place = place if "://" in place else str(Path(place).absolute())
        try:
            self.files, self.root = fs.FileSystem.from_uri(self.place)
        except (ArrowException, OSError) as error:
            raise InputError(f"--checkpoints {place}: {' '.join(str(error).split())}") from None
        if not self.root:
            raise InputError(f"--checkpoints {place}: name a folder, s3://bucket/folder for instance")

    def epochs(self, keys: Collection[str]) -> dict[str, int]:
        """The newest checkpoint's epoch of each key that has one; raises InputError if the folder cannot be read."""
        try:
            return {key: epochs[0] for key, epochs in self._epochs(keys).items()}
        except OSError as error:
            raise InputError(f"--checkpoints {self.place}: {_why(error)}") from None

    def save(self, key: str, state: State) -> None:
        """Write a trial's state, then remove what has become too old.

        A reader sees a whole file or none. Raises OSError if the file cannot be written; what was there stays.
        """
        self.files.create_dir(self.root, recursive=True)
        buffer = io.BytesIO()
        torch.save(state, buffer)
        payload = buffer.getvalue()
        self._write(self._path(key, state["epoch"]), MAGIC + _digest(payload) + payload)
        for epoch in self._epochs({key})[key][KEPT:]:
            self.files.delete_file(self._path(key, epoch))

    def restore(self, key: str, use: Callable[[State], object]) -> str:
        """Hand the newest state of a trial to `use`, or the one before where that cannot be read or `use` raises
        Unusable. Returns a note on what could not be used, or nothing.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Checkpoints(folder).save("0a", {"epoch": 3})
        ...     Checkpoints(folder).restore("0a", print)
        {'epoch': 3}
        ''
        """
        reasons: list[str] = []
        outcome = "training starts anew"
        for epoch in self._epochs({key}).get(key, []):
            try:
                use(self._read(key, epoch))
                outcome = f"training goes on from epoch {epoch}"
                break
            except Unusable as error:
                reasons.append(f"the checkpoint of epoch {epoch} (key {key}) cannot be used: {error}")
        return f"{'; '.join(reasons)}; so {outcome}" if reasons else ""

    def discard(self, keys: Collection[str]) -> None:
        """Remove all checkpoints of the keys; raises InputError where that cannot be done."""
        try:
            for path, _ in self._files(keys):
                self.files.delete_file(path)
        except OSError as error:
            raise InputError(f"--checkpoints {self.place}: {_why(error)}") from None

    def _epochs(self, keys: Collection[str]) -> dict[str, list[int]]:
        """The epochs of each key's checkpoints, the newest first."""
        epochs: dict[str, list[int]] = {}
        for _, (key, epoch, part) in self._files(keys):
            if not part:
                epochs.setdefault(key, []).append(int(epoch))
        return {key: sorted(of_key, reverse=True) for key, of_key in epochs.items()}

    def _files(self, keys: Collection[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The path, key and epoch of each file, and ".part" if it is the beginning that a killed worker has left."""
        for info in self.files.get_file_info(fs.FileSelector(self.root, allow_not_found=True)):
            name = re.fullmatch(r"([0-9a-f]+)\.(\d+)\.ckpt(\.part)?", info.base_name)
            if name and name[1] in keys:
                yield info.path, name.groups("")

    def _path(self, key: str, epoch: int) -> str:
        return f"{self.root}/{key}.{epoch:06d}.ckpt"

    def _write(self, path: str, content: bytes) -> None:
        if not isinstance(self.files, fs.LocalFileSystem):
            # An object appears in its store when its upload is complete.
            with self.files.open_output_stream(path) as stream:
                stream.write(content)
            return
        part = Path(f"{path}.part")
        try:
            with part.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        # Without this a power cut could undo the renaming.
        folder = os.open(self.root, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read(self, key: str, epoch: int) -> State:
        """The state in a file; raises Unusable if it cannot be read, or is not what was written."""
        try:
            with self.files.open_input_stream(self._path(key, epoch)) as stream:
                content = stream.read()
        except OSError as error:
            raise Unusable(_why(error)) from None
        start = len(MAGIC) + DIGEST
        if len(content) < start or not content.startswith(MAGIC):
            raise Unusable("it is not a checkpoint, or cut off at its beginning")
        if _digest(content[start:]) != content[len(MAGIC) : start]:
            raise Unusable("its content does not fit its checksum")
        try:
            state = torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises almost anything
            raise Unusable(f"torch cannot read it ({type(error).__name__})") from None
        if not isinstance(state, dict) or state.get("epoch") != epoch:
            raise Unusable("it holds something else")
        return state


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=DIGEST).digest()


def _why(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split())
