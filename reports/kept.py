"""Reports that need not be written again: a digest of all that one is made of is kept beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.spelling import frame_text
from sweeps.program import code_state

if TYPE_CHECKING:
    from reports.store import SweepResult

RECORD = ".inputs.json"
LIBRARIES = ("cplearn-sweeps", "jinja2", "matplotlib", "numpy", "optuna", "pandas", "scipy", "scikit-learn")
"""Those that have a part in tables, figures and pages."""
PACKAGES = ("reports", "sweeps")


def inputs_of(result: SweepResult, origin: dict[str, Any]) -> str:
    """A digest of all that the report of a sweep on a data set is made of: its runs, the program, and the libraries.

    The artifacts of runs are not read for it: a run that has finished keeps them.
    """
    facts = {**vars(result), "runs": frame_text(result.runs)}
    text = json.dumps([facts, origin, code_state(PACKAGES, LIBRARIES)], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def kept(folder: Path, inputs: str) -> tuple[Path, ...] | None:
    """The files of the report in a folder, if it was made of these inputs and none of them has been changed since."""
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files = {folder / name: state for name, state in record["files"].items()}
        if record["inputs"] == inputs and all(_state(path) == state for path, state in files.items()):
            return tuple(files)
    return None


def keep(folder: Path, inputs: str, files: Sequence[Path]) -> None:
    """Write down what a report was made of, and digests of its files; where that cannot be done, it is made anew."""
    states = {path.relative_to(folder).as_posix(): _state(path) for path in files}
    with suppress(OSError):
        record = json.dumps({"inputs": inputs, "files": states}, indent=1)
        (folder / RECORD).write_text(record + "\n", encoding="utf-8")


def _state(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
