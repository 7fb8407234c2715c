"""Checkpoints: the state of each trial after an epoch, in one file named by the trial's key.

A member's state does not depend on its pack, so trials can go on in other packs than those they were stopped in.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pyarrow import ArrowException, fs

from cplearn.errors import InputError

MAGIC = b"cplearn checkpoint 1\n"
DIGEST = 32
KEPT = 2
"""Checkpoints kept of a trial: should the newest be damaged, or a pack be stopped between its files, the one before
serves."""

State = dict[str, Any]


@dataclass(frozen=True)
class Restored:
    """States of one epoch, one a member, or none if training has to start anew; `notes` say what was damaged."""

    states: list[State] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Damaged(Exception):
    """A checkpoint that is not what was written; the message says why."""


class Checkpoints:
    """The checkpoints in a folder, given as a path or an address (s3://, gs://, hdfs://, file://).

    `place` says it for workers, which run in other directories. Raises InputError for an address that cannot be
    understood.
    """

    def __init__(self, place: str) -> None:
        self.place = place if "://" in place else str(Path(place).absolute())
        try:
            if "://" in place:
                self.files, self.root = fs.FileSystem.from_uri(place)
            else:
                self.files, self.root = fs.LocalFileSystem(), self.place
        except (ArrowException, OSError) as error:
            raise InputError(f"--checkpoints {place}: {' '.join(str(error).split())}") from None
        if not self.root:
            raise InputError(f"--checkpoints {place}: name a folder, s3://bucket/folder for instance")

    def epochs(self, keys: Collection[str]) -> dict[str, int]:
        """The newest checkpoint's epoch of each key that has one; raises InputError if the folder cannot be read."""
        try:
            return {key: found[0] for key, found in self._found(set(keys)).items()}
        except OSError as error:
            raise InputError(f"--checkpoints {self.place}: {_why(error)}") from None

    def save(self, states: Mapping[str, State]) -> None:
        """Write the states of a pack's members by key, then remove what has become too old.

        A reader sees a whole file or none. Raises OSError if a file cannot be written; what was there stays.
        """
        self.files.create_dir(self.root, recursive=True)
        for key, state in states.items():
            buffer = io.BytesIO()
            torch.save(state, buffer)
            payload = buffer.getvalue()
            self._write(self._path(key, state["epoch"]), MAGIC + _digest(payload) + payload)
        # Not before all are there: a pack goes on from an epoch that each of its members has.
        for key, found in self._found(set(states)).items():
            for epoch in found[KEPT:]:
                self.files.delete_file(self._path(key, epoch))

    def restore(self, keys: Sequence[str]) -> Restored:
        """The states of the newest epoch of which every key has an intact checkpoint."""
        notes: list[str] = []
        found = self._found(set(keys))
        common = set.intersection(*(set(found.get(key, ())) for key in keys))
        for epoch in sorted(common, reverse=True):
            states = []
            for key in keys:
                try:
                    states.append(self._read(key, epoch))
                except (Damaged, OSError) as error:
                    why = str(error) if isinstance(error, Damaged) else _why(error)
                    notes.append(f"the checkpoint of epoch {epoch} (key {key}) cannot be used: {why}")
                    break
            else:
                return Restored(states, notes)
        if found:
            notes.append("no usable checkpoint, so training starts anew")
        return Restored([], notes)

    def discard(self, keys: Collection[str]) -> None:
        """Remove all checkpoints of the keys; raises InputError where that cannot be done."""
        try:
            for info in self._files():
                # A worker that was killed while it wrote has left the beginning of a file.
                name = re.fullmatch(r"([0-9a-f]+)\.\d+\.ckpt(\.part)?", info.base_name)
                if name and name[1] in keys:
                    self.files.delete_file(info.path)
        except OSError as error:
            raise InputError(f"--checkpoints {self.place}: {_why(error)}") from None

    def _found(self, keys: set[str]) -> dict[str, list[int]]:
        """The epochs of each key's checkpoints, the newest first."""
        found: dict[str, list[int]] = {}
        for info in self._files():
            name = re.fullmatch(r"([0-9a-f]+)\.(\d+)\.ckpt", info.base_name)
            if name and name[1] in keys:
                found.setdefault(name[1], []).append(int(name[2]))
        return {key: sorted(epochs, reverse=True) for key, epochs in found.items()}

    def _files(self) -> list[fs.FileInfo]:
        found: list[fs.FileInfo] = self.files.get_file_info(fs.FileSelector(self.root, allow_not_found=True))
        return found

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
        with self.files.open_input_stream(self._path(key, epoch)) as stream:
            content = stream.read()
        start = len(MAGIC) + DIGEST
        if len(content) < start or not content.startswith(MAGIC):
            raise Damaged("it is not a checkpoint, or cut off at its beginning")
        if _digest(content[start:]) != content[len(MAGIC) : start]:
            raise Damaged("its content does not fit its checksum")
        state: State = torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)
        return state


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=DIGEST).digest()


def _why(error: OSError) -> str:
    return error.strerror or " ".join(str(error).split())
