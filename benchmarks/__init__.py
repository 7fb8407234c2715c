"""The benchmark: what this project says about its speed, as ratios taken within one run. Each part is a module."""

from __future__ import annotations

import difflib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from benchmarks import (
    augmentation,
    convolutions,
    dictionary,
    first_metric,
    gpu,
    growth,
    machine,
    peers,
    render,
    report,
    sources,
    step,
    sweep,
)
from benchmarks.measure import Part
from cplearn.errors import InputError

PARTS: dict[str, Callable[[bool], Part]] = {
    "step": step.run,
    "convolutions": convolutions.run,
    "augment": augmentation.run,
    "sources": sources.run,
    "dictionary": dictionary.run,
    "first-metric": first_metric.run,
    "growth": growth.run,
    "report": report.run,
    "peers": peers.run,
    "gpu": gpu.run,
}
"""The parts by name; each takes `quick`."""
SWEEP: dict[str, Callable[[bool], Part]] = {"sweep": sweep.run}
"""What `cplearn bench-sweep` measures, apart because it takes minutes."""


def run(
    out: Path,
    only: Sequence[str] | None = None,
    quick: bool = False,
    console: Console | None = None,
    parts: Mapping[str, Callable[[bool], Part]] = PARTS,
    name: str = "bench",
) -> tuple[Path, list[str]]:
    """Measure all parts, or those named in `only`, and write <out>/<name>.md and <out>/<name>.json.

    Returns the path of the former and the names of the parts that failed.

    `quick` reduces sizes and repeats until the numbers mean nothing, to try the machinery; goals are then not judged. A
    part that raises is written down as failed and does not stop the others. Both files are written anew after each
    part, so that an interrupted benchmark keeps what it has.

    Raises InputError for a part that does not exist, and where `out` cannot be written to.
    """
    for asked in only or ():
        if asked not in parts:
            near = difflib.get_close_matches(asked, parts, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(f"the benchmark has no part {asked!r}; {hint}Parts: {', '.join(parts)}")
    console = console or Console()
    document: dict[str, Any] = {"version": 1, "quick": quick, "machine": machine.describe(), "parts": {}}
    path = _write(document, out, name)
    for part_name in (one for one in parts if not only or one in only):
        start = time.perf_counter()
        try:
            part = parts[part_name](quick)
        except Exception as error:
            part = Part(part_name, "", failed=f"{type(error).__name__}: {error}")
        document["parts"][part_name] = {**part.document(judge=not quick), "seconds": time.perf_counter() - start}
        path = _write(document, out, name)
        console.print(_line(part_name, document["parts"][part_name]), highlight=False, soft_wrap=True)
    return path, [one for one, part in document["parts"].items() if part["failed"]]


def _write(document: Mapping[str, Any], out: Path, stem: str) -> Path:
    files = {f"{stem}.json": json.dumps(document, indent=2) + "\n", f"{stem}.md": render.to_markdown(document)}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            draft = out / f".{name}"
            draft.write_text(text, encoding="utf-8")
            os.replace(draft, out / name)
    except OSError as error:
        raise InputError(f"{out}: cannot write there ({error.strerror})") from None
    return out / f"{stem}.md"


def _line(name: str, part: Mapping[str, Any]) -> str:
    """What the terminal is told about a finished part, in rich's markup."""
    if part["failed"]:
        told = f"[red]failed:[/] {escape(part['failed'].splitlines()[0])}"
    elif part["skipped"]:
        told = f"skipped: {escape(part['skipped'])}"
    else:
        judged = [row for row in part["rows"] if row["goal"]]
        missed = [row["label"] for row in judged if not row["goal"]["met"]]
        told = f"{len(part['rows'])} rows, {len(judged) - len(missed)} of {len(judged)} goals met"
        told += f"; [red]missed:[/] {escape('; '.join(missed))}" if missed else ""
    return f"[bold]{name:12}[/] {part['seconds']:6.0f} s  {told}"
