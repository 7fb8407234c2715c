"""Checkpoints: the state of a trial after an epoch, in one file named by the trial's key and the epoch."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from pyarrow import ArrowException, fs

from cplearn.errors import InputError

MAGIC = b"cplearn checkpoint 1\n"
DIGEST = 32
KEPT = 2
"""Checkpoints kept of a trial: should the newest be damaged, the one before serves."""

State = dict[str, Any]


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

    def restore(self, key: str) -> tuple[State | None, list[str]]:
        """The newest intact state of a trial, None if training has to start anew; and notes on what was damaged.

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Checkpoints(folder).save("0a", {"epoch": 3})
        ...     Checkpoints(folder).restore("0a")
        ({'epoch': 3}, [])
        """
        notes: list[str] = []
        epochs = self._epochs({key}).get(key, [])
        for epoch in epochs:
            try:
                return self._read(key, epoch), notes
            except OSError as error:
                notes.append(f"the checkpoint of epoch {epoch} (key {key}) cannot be used: {_why(error)}")
        if epochs:
            notes.append("no usable checkpoint, so training starts anew")
        return None, notes

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
        """The state in a file; raises OSError if it cannot be read, or is not what was written."""
        with self.files.open_input_stream(self._path(key, epoch)) as stream:
            content = stream.read()
        start = len(MAGIC) + DIGEST
        if len(content) < start or not content.startswith(MAGIC):
            raise OSError("it is not a checkpoint, or cut off at its beginning")
        if _digest(content[start:]) != content[len(MAGIC) : start]:
            raise OSError("its content does not fit its checksum")
        state: State = torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)
        return state


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=DIGEST).digest()


def _why(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split())
