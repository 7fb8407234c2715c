"""The words in which runs speak of themselves: states of trials, settings as text, manifests."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sweeps.errors import StoreError, UserError
from sweeps.record import (
    DatasetUse,
    Manifest,
    ManifestTrial,
    TrialRecord,
    TrialState,
    param_text,
    param_value,
    state_of,
)


def record(status: Any, failure: Any = "", stopped_by: str = "") -> TrialRecord:
    return TrialRecord("key", "run", status, failure=failure, stopped_by=stopped_by)


DIVERGED, BROKEN = record("FAILED", "diverged"), record("FAILED", "exception")
STOPPED = record("KILLED", stopped_by="beta: asha")


@pytest.mark.parametrize(
    ("run", "options", "state"),
    [
        (None, {}, "new"),
        (None, {"reached": 3}, "resumable"),
        (record("FINISHED"), {}, "reused"),
        (record("FINISHED"), {"reached": 3}, "reused"),
        (record("FINISHED"), {"force": True, "reached": 3}, "new"),
        (record("RUNNING"), {}, "running"),
        (record("RUNNING"), {"reached": 3}, "resumable"),
        (record("KILLED"), {}, "new"),
        (record("KILLED"), {"reached": 3}, "resumable"),
        (BROKEN, {}, "failed"),
        (BROKEN, {"reached": 3}, "resumable"),
        (BROKEN, {"retry_failed": True}, "failed"),
        (DIVERGED, {"reached": 3}, "diverged"),
        (DIVERGED, {"retry_failed": True}, "failed"),
        (DIVERGED, {"force": True}, "failed"),
        (STOPPED, {"stopper": "beta: asha"}, "stopped"),
        (STOPPED, {"stopper": "beta: another asha"}, "new"),
        (STOPPED, {"stopper": "beta: asha", "force": True}, "new"),
        (STOPPED, {"reached": 3}, "resumable"),
    ],
)
def test_the_state_of_a_trial_follows_from_its_run(
    run: TrialRecord | None, options: dict[str, Any], state: TrialState
) -> None:
    assert state_of(run, **options) == state


@pytest.mark.parametrize(
    "value", [0.1, 1, 1e-38, 1e16, True, None, "digits", "1e5", "007", "[", [10, 20], ["a b", "c"]]
)
def test_a_setting_comes_back_from_its_text(value: Any) -> None:
    assert param_value(param_text(value)) == value


def manifest() -> Manifest:
    use = DatasetUse("digits", "digits", "f00d", "scikit-learn", 1437, 360, 1, 8)
    trial = ManifestTrial("a1", "digits", "trial", "beta=0.1", {"method.beta": 0.1}, 0)
    return Manifest("beta", "", "settings: {}", {"method.beta": [0.1]}, [0], [use], [trial])


def encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def test_a_manifest_comes_back_from_its_document() -> None:
    document = manifest().to_dict()
    assert document["version"] == 1
    assert "search" not in document
    assert Manifest.read(encoded(document), "run 7") == manifest()
    assert Manifest.read(encoded({**document, "search": {"trials": 3}}), "run 7").search == {"trials": 3}


def test_folders_of_an_older_manifest_are_told_apart() -> None:
    document = manifest().to_dict()
    document["datasets"][0] |= {"name": "folder:/birds/images", "slug": "folder-images", "fingerprint": "1f3a9c77"}
    document["trials"][0]["dataset"] = "folder-images"
    read = Manifest.read(encoded(document), "run 7")
    assert read.datasets[0].slug == read.trials[0].dataset == "folder-images-1f3a9c"
    assert Manifest.read(encoded(read.to_dict()), "run 7") == read


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "the manifest of run 7 has version 2, this program reads 1"),
        ({"trials": [{"key": "a"}]}, "the manifest of run 7 is damaged"),
        ({"datasets": None}, "the manifest of run 7 is damaged"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_said(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Manifest.read(encoded(manifest().to_dict() | change), "run 7")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xff", b"[" * 100_000])
def test_a_manifest_of_any_other_content_is_refused(content: bytes) -> None:
    with pytest.raises(StoreError, match="the manifest of run 7 is damaged"):
        Manifest.read(content, "run 7")
