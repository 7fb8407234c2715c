"""Artifacts of runs that are missing, damaged or of something else: noted, and never in the way of a report."""

from __future__ import annotations

import io
import json
import random
import zipfile

import numpy as np
import pytest

from frames import arrays, grid, npz, result
from reports.figures import notes, plots, read_samples, samples
from reports.figures.samples import Sample
from sweeps.errors import UserError

AXES = {"method.beta": [0.1, 1]}
RUNS = result(AXES, grid(AXES))
DIAGNOSTICS = json.dumps({"singular_values": [3.0, 1.0, 0.0], "code_counts": [5, 4, 0, 3]}).encode()
ARRAYS = npz(arrays())
SPECTRA, IMAGES = ["spectrum", "code-usage"], ["covariance", "adjacency", "projection", "code-images", "neighbours"]


def bomb(shape: tuple[int, ...], size: int = 0) -> bytes:
    """An npz whose `labels` are said to have a shape, and have so many bytes."""
    file, header = io.BytesIO(changed(labels=None)), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.npy", header.getvalue() + bytes(size))
    return file.getvalue()


def changed(**parts: object) -> bytes:
    return npz({name: part for name, part in (arrays() | parts).items() if part is not None})  # type: ignore[arg-type]


UNREADABLE = {
    "empty": b"",
    "noise": random.Random(0).randbytes(4000),
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "JSON": DIAGNOSTICS,
    "a bomb": bomb((2**18,), 2**20),
    **{f"cut at {at}": ARRAYS[:at] for at in range(1, len(ARRAYS), len(ARRAYS) // 9)},
}
DO_NOT_FIT = {
    "no scale": (changed(features_scale=None), ["projection"]),
    "no labels": (changed(labels=None), IMAGES),
    "a pickle": (changed(labels=np.array([None, {}])), IMAGES),
    "a header of a trillion": (bomb((10**12,)), IMAGES),
    "negative header": (bomb((-1,)), IMAGES),
    "no code images": (changed(code_images=None), ["code-images"]),
    "text": (changed(labels=np.array(["a"] * 12)), ["projection", "code-images", "neighbours"]),
    "other shape": (changed(kept=np.arange(5)), ["covariance", "adjacency", "projection"]),
    "beyond the labels": (changed(kept=np.array([0, 3, 6, 12])), ["covariance", "adjacency", "projection"]),
    "unknown neighbour": (changed(neighbours=np.array([[1, 2, 50], [5, 6, 7], [9, 10, -1]])), ["neighbours"]),
    "two channels": (changed(thumbnails=np.zeros((12, 2, 5, 4), np.uint8)), ["code-images", "neighbours"]),
    "more images of codes": (changed(code_images=np.zeros((3, 9), int)), ["code-images"]),
    "nothing finite": (changed(features=np.full((4, 3), np.nan, np.float16)), ["projection"]),
    "an infinite scale": (changed(embeddings_scale=np.array(np.inf)), ["covariance", "adjacency"]),
}
"""Arrays that can be read, but some figures cannot be made of them."""
DAMAGED_DIAGNOSTICS = {
    "empty": b"",
    "noise": random.Random(0).randbytes(400),
    "another encoding": DIAGNOSTICS.decode().encode("cp037"),
    "a list": b"[1, 2]",
    "lists of words": b'{"singular_values": ["a"]}',
    "no list": b'{"singular_values": 3}',
    "NaN": b'{"singular_values": [NaN]}',
    "too large": b'{"code_counts": [1e300]}',
    "many digits": b'{"code_counts": [1' + b"0" * 400 + b"]}",
    "deep": b"[" * 100_000,
    "negative": b'{"code_counts": [-1]}',
    "no code": b'{"code_counts": [0, 0.4]}',
    **{f"cut at {at}": DIAGNOSTICS[:at] for at in range(1, len(DIAGNOSTICS), 9)},
}
CASES = [
    *(pytest.param("evaluation.npz", content, SPECTRA, id=f"npz: {name}") for name, content in UNREADABLE.items()),
    *(
        pytest.param("evaluation.npz", content, [*SPECTRA, *(i for i in IMAGES if i not in lost)], id=f"npz: {name}")
        for name, (content, lost) in DO_NOT_FIT.items()
    ),
    *(
        pytest.param("diagnostics.json", content, IMAGES, id=f"json: {name}")
        for name, content in DAMAGED_DIAGNOSTICS.items()
    ),
]


def intact(run: str, path: str) -> bytes:
    return DIAGNOSTICS if path == "diagnostics.json" else ARRAYS


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_BYTES", 2**20)


def figures_of(shown: list[Sample]) -> list[str]:
    return [plot.name for plot in plots(RUNS, shown) if plot.name != "beta"]


@pytest.mark.parametrize(("file", "content", "left"), CASES)
def test_a_damaged_file_is_noted_and_the_other_figures_are_drawn(file: str, content: bytes, left: list[str]) -> None:
    shown = read_samples(RUNS, lambda run, path: content if path == file else intact(run, path))
    assert figures_of(shown) == left
    assert list(notes(shown)) == [
        f"{file} is damaged for β = 0.1 (run run0), β = 1 (run run1); figures lack these rows, and the sweep with "
        "--force makes it anew"
    ]


@pytest.mark.parametrize("seed", range(30))
def test_any_flipped_bits_end_in_figures_or_in_a_note(seed: int) -> None:
    draw = random.Random(seed)
    content = {"evaluation.npz": bytearray(ARRAYS), "diagnostics.json": bytearray(DIAGNOSTICS)}
    for bytes_of_file in content.values():
        for _ in range(draw.choice([1, 1, 8])):
            bytes_of_file[draw.randrange(len(bytes_of_file))] ^= 1 << draw.randrange(8)
    shown = read_samples(RUNS, lambda run, path: bytes(content[path]) if run == "run0" else intact(run, path))
    assert figures_of(shown) == [*SPECTRA, *IMAGES], "those of the other run at least"
    assert len(list(notes(shown))) == sum(map(len, (sample.faults for sample in shown)))


def test_files_that_are_missing_or_cannot_be_fetched_are_said_too() -> None:
    def reader(run: str, path: str) -> bytes | None:
        if path == "diagnostics.json" and run == "run0":
            raise UserError("the store is away")
        return None if run == "run1" else intact(run, path)

    shown = read_samples(RUNS, reader)
    assert figures_of(shown) == IMAGES
    assert [said.partition(";")[0] for said in notes(shown)] == [
        "diagnostics.json cannot be fetched for β = 0.1 (run run0)",
        "diagnostics.json is missing for β = 1 (run run1)",
        "evaluation.npz is missing for β = 1 (run run1)",
    ]


def test_what_is_intact_has_no_note() -> None:
    shown = read_samples(RUNS, intact)
    assert figures_of(shown) == [*SPECTRA, *IMAGES]
    assert not list(notes(shown))
