"""Results of sweeps as frames and arrays, for tests of tables and figures."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports.store import SweepResult

FULL = {"probe/accuracy": 0.9, "codes/nmi": 0.8, "codes/nmi_chance": 0.1, "codes/ami": 0.7, "collapse/codes_used": 12}


def result(axes: dict[str, list[Any]], trials: Sequence[dict[str, Any]], seeds: int = 1) -> SweepResult:
    """Trials given by what matters: a point (or `label` for a baseline), metrics, and `status` unless finished."""
    records = []
    for number, trial in enumerate(trials):
        baseline = "label" in trial
        fixed = {"run_id": f"run{number}", "key": f"key{number}", "status": "FINISHED", "seed": 0, "error": None}
        fixed |= {"role": "baseline" if baseline else "trial", "label": "point"}
        records.append({**fixed, **dict.fromkeys(axes), **trial})
    runs = pd.DataFrame.from_records(records)
    for axis in axes:
        runs[axis] = pd.Series([record[axis] for record in records], dtype=object)
    about = {"name": "digits", "slug": "digits", "fingerprint": "f00d"}
    return SweepResult("s", "", "digits", "digits", axes, list(range(seeds)), about, "parent", runs)


def grid(axes: dict[str, list[Any]], **metrics: float) -> list[dict[str, Any]]:
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    return [{**point, **(metrics or FULL)} for point in points]


EMBEDDINGS = np.array([[2.0, 0], [1, 0], [0, 3], [-1, 0]])


LABELS = np.array([4, 4, 7, 7], np.int32)


def arrays(seed: int = 0, width: int = 6) -> dict[str, np.ndarray]:
    """What a run keeps of twelve images of three classes, of which eight vectors are kept."""
    draw = np.random.default_rng(seed)
    return {
        "labels": np.repeat(np.arange(3, dtype=np.int32), 4),
        "codes": np.array([1, 1, 1, 1, 5, 5, 5, 0, 0, 0, 0, 0], np.int32),
        "kept": np.arange(0, 12, 3, dtype=np.int32),
        "features": draw.normal(size=(4, 3)).astype(np.float16),
        "features_scale": np.array(2.0),
        "embeddings": draw.normal(size=(4, width)).astype(np.float16),
        "embeddings_scale": np.array(0.5),
        "top_codes": np.array([0, 1, 5], np.int32),
        "code_images": np.array([[9, 8, 7, 10], [0, 1, 2, 3], [4, 5, 6, -1]], np.int32),
        "queries": np.array([0, 4, 8], np.int32),
        "neighbours": np.array([[1, 2, 5], [5, 6, 7], [9, 10, -1]], np.int32),
        "shown": np.arange(12, dtype=np.int32),
        "thumbnails": np.arange(12, dtype=np.uint8)[:, None, None, None] * np.full((1, 1, 5, 4), 10, np.uint8),
    }


def npz(content: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **content)
    return file.getvalue()
