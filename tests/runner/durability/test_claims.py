"""Claims, between real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cplearn.errors import InputError
from runner.durability.claims import Claims
from runner.machine.folders import companion

KEYS = [f"{number:016x}" for number in (0, 1, 0xFFFFFFFFFFFFFFFF, 0x8000000000000000)]
HOLD = """
import sys
from pathlib import Path
from runner.durability.claims import Claims, claims_of
place = sys.argv[1]
with claims_of(place) if "://" in place else Claims(Path(place)) as claims:
    print(*(claims.take(key) for key in sys.argv[2:]), flush=True)
    sys.stdin.read()
"""


def holder(place: Path | str, *keys: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(place), *keys]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd)


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def test_a_claimed_trial_is_refused_to_others_until_its_holder_dies(tmp_path: Path) -> None:
    path = tmp_path / "some" / "claims"
    first = holder(path, *KEYS[:2])
    try:
        assert answer(first) == "True True"
        with Claims(path) as claims:
            assert [claims.take(key) for key in KEYS] == [False, False, True, True]
            second = holder(path, KEYS[2])
            assert answer(second) == "False"
            second.communicate("")
            first.send_signal(signal.SIGKILL)
            first.wait()
            claims.wait(KEYS[:2])
            assert claims.held == set(KEYS)
            claims.release()
            third = holder(path, *KEYS)
            assert answer(third) == "True True True True"
            third.communicate("")
    finally:
        first.kill()


def test_a_store_has_one_set_of_claims_however_it_is_spelled(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "link.db").symlink_to("store/mlflow.db")
    (tmp_path / "folder").symlink_to("store")
    spelled = [f"sqlite:///{tmp_path}/store/mlflow.db", "sqlite:///folder/../store/./mlflow.db?timeout=60"]
    spelled += ["sqlite:///link.db", f"sqlite:///{tmp_path}/folder/mlflow.db"]
    holders = [holder(uri, KEYS[0], cwd=tmp_path) for uri in spelled]
    try:
        assert sorted(map(answer, holders)) == ["False", "False", "False", "True"]
    finally:
        for process in holders:
            process.communicate("")
    assert [path.name for path in tmp_path.rglob("*.claims")] == ["mlflow.db.claims"]


def test_many_trials_need_one_open_file(tmp_path: Path) -> None:
    with Claims(tmp_path / "claims") as claims:
        before = len(list(Path("/proc/self/fd").iterdir()))
        assert all(claims.take(f"{number:016x}") for number in range(0, 2**60, 2**48))
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_stores_have_claims_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert companion(f"sqlite:///{tmp_path}/mlflow.db", "claims") == tmp_path / "mlflow.db.claims"
    one, other = companion("http://127.0.0.1:5000", "claims"), companion("http://127.0.0.1:5001", "claims")
    assert one != other
    assert one.parent == other.parent == tmp_path / "cplearn"


def test_a_place_that_cannot_be_written_is_said_in_one_sentence() -> None:
    with pytest.raises(InputError, match="cannot write /proc/none/claims"):
        Claims(Path("/proc/none/claims")).__enter__()
