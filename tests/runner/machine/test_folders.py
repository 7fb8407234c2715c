"""Folders of temporary files: where they are made, and what becomes of those of drivers that were killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cplearn.errors import InputError
from runner.machine.folders import LONGEST, scratch_folder, temporary_place
from support import ROOT

HOLD = """
from runner.machine.folders import scratch_folder
with scratch_folder() as folder:
    (folder / "ray").mkdir()
    print(folder, flush=True)
    input()
"""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a path that is short enough, which TMPDIR names."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        assert len(folder) <= LONGEST
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


def test_a_scratch_folder_is_for_its_user_alone_and_does_not_stay(temporary: Path) -> None:
    with scratch_folder() as folder:
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "some").mkdir()
        (folder / "token").touch()
        with scratch_folder() as another:
            assert another != folder
        assert folder.exists()
    assert list(temporary.iterdir()) == []


def test_only_what_a_killed_driver_has_left_is_removed(temporary: Path) -> None:
    (temporary / "cplearn-projects").mkdir()
    (temporary / "cplearn-projects" / "notes.txt").touch()
    drivers = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        dead, alive = (Path(driver.stdout.readline().strip()) for driver in drivers if driver.stdout)
        assert dead.exists()
        drivers[0].kill()
        drivers[0].wait()
        with scratch_folder():
            assert not dead.exists()
            assert alive.exists()
        assert (temporary / "cplearn-projects" / "notes.txt").exists()
    finally:
        for driver in drivers:
            driver.kill()
            driver.communicate()


def test_a_long_tmpdir_is_left_for_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert len(str(tmp_path)) > LONGEST
    assert temporary_place() == Path("/tmp")


def test_nowhere_to_write_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc"])
    with pytest.raises(InputError, match=r"temporary files cannot be written .* let TMPDIR name a folder"):
        temporary_place()
