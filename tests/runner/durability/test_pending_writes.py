"""Pending writes keep their order, are repeated while they may succeed, and are given up in the end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from cplearn.errors import InputError
from runner.durability import pending_writes
from runner.durability.pending_writes import PendingWrites


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_writes, "FIRST_PAUSE", 0.01)


def test_calls_are_repeated_in_order_until_they_succeed() -> None:
    done: list[int] = []
    said: list[str] = []
    away = threading.Event()
    away.set()

    def write(number: int) -> None:
        if away.is_set():
            raise ConnectionError("nobody there")
        done.append(number)

    box = PendingWrites(lambda error: isinstance(error, OSError), said.append)
    for number in range(50):
        box.put(lambda number=number: write(number))  # type: ignore[misc]
    time.sleep(0.1)
    assert done == []
    away.clear()
    box.close()
    assert done == list(range(50))
    assert [text.split(" (")[0] for text in said if "entries are" not in text] == [
        "the tracking store is away",
        "the tracking store is back",
    ]


def test_an_error_that_stays_is_raised_to_the_caller(tmp_path: Path) -> None:
    box = PendingWrites(lambda error: isinstance(error, OSError), lambda text: None)
    box.put(lambda: (tmp_path / "none" / "file").write_text(str(1 / 0)))
    with pytest.raises(ZeroDivisionError):
        box.close()
    with pytest.raises(ZeroDivisionError):
        box.put(lambda: None)


def _gone() -> None:
    raise ConnectionError("nobody there")


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    box = PendingWrites(lambda error: True, lambda text: None, patience=0.1)
    box.put(_gone)
    with pytest.raises(InputError, match=r"away for 0 min \(nobody there\); run the same command again"):
        box.close()


def test_a_stopped_sweep_does_not_wait_for_long() -> None:
    box = PendingWrites(lambda error: True, lambda text: None)
    box.put(_gone)
    box.put(lambda: None)
    start = time.monotonic()
    with pytest.raises(InputError, match="entries did not reach the tracking store"):
        box.close(patience=0.2)
    assert time.monotonic() - start < 5
