"""Makes the pictures of the documentation, and what the notebook shows.

    python docs/tools/pictures.py                            all of them, in some ten minutes on two CPU cores
    python docs/tools/pictures.py terminal report            only these
    python docs/tools/pictures.py --folder FOLDER            with the sweep, store and results that lie there

The β sweep runs in build/pictures unless its trials have finished there before. Chromium draws the pages, and LaTeX the
table (pdflatex, and pdftoppm of poppler-utils).
"""

import argparse
import ast
import base64
import contextlib
import fcntl
import io
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
IMAGES, NOTEBOOK = ROOT / "docs" / "images", ROOT / "docs" / "notebook.ipynb"
CPLEARN = [sys.executable, "-m", "runner.cli"]
SWEEP = ["sweep", "beta", "--seeds", "3"]
COLUMNS, LINES = 110, 24
HOST = "mlflow.example"
"""Another name of this machine for Chromium: at 127.0.0.1 MLflow opens a panel for language models beside the page."""
WELL_UNDER_WAY = re.compile(rb" (8|9|1\d)/20 ")
"""Stands on the terminal when a trial of the sweep is in its eighth epoch or later."""
MOST_SECONDS = 240


def environment(folder: Path) -> dict[str, str]:
    """The variables of a command whose store lies in a folder."""
    return {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "PYTHONPATH": str(ROOT),
        "CPLEARN_DATA": str(ROOT / "data"),
        "OMP_NUM_THREADS": "1",
        "MLFLOW_SERVER_ALLOWED_HOSTS": "*",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*",
    }


def terminal(folder: Path) -> None:
    """What the terminal shows while a sweep runs: the screen when it is well under way, as SVG."""
    with tempfile.TemporaryDirectory() as fresh:
        written = _in_terminal([*CPLEARN, "sweep", "beta"], Path(fresh))
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text("$ make sweep-beta", style="bold"))
    for line in _screen(written)[-LINES:]:
        console.print(Text.from_ansi(line), overflow="fold")
    (IMAGES / "terminal.svg").write_text(console.export_svg(title="cplearn"))


def _in_terminal(command: list[str], folder: Path) -> str:
    """What a sweep writes to a terminal until it is well under way; it is then interrupted as by Ctrl-C."""
    process, ours = pty.fork()
    if process == 0:
        os.chdir(folder)
        variables = {name: value for name, value in environment(folder).items() if name != "NO_COLOR"}
        os.execvpe(command[0], command, {**variables, "TERM": "xterm-256color", "COLORTERM": "truecolor"})
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    written, end = b"", time.monotonic() + MOST_SECONDS
    while (left := end - time.monotonic()) > 0 and not WELL_UNDER_WAY.search(written):
        if select.select([ours], [], [], left)[0]:
            written += os.read(ours, 65536)
    os.kill(process, signal.SIGINT)
    with contextlib.suppress(OSError):  # The terminal is closed when the command has ended.
        while os.read(ours, 65536):
            pass
    os.waitpid(process, 0)
    return written.decode(errors="ignore")


def _screen(written: str) -> list[str]:
    """The lines that stand on a terminal, with their colours. Cursor up, carriage return and the erasing of a line are
    understood, which is what rich's live displays use.

    >>> _screen("one\\ntwo\\r\\x1b[2K\\x1b[1A\\x1b[2Kthree")
    ['three']
    """
    lines, row = [""], 0
    for part in re.split(r"(\r?\n|\r|\x1b\[\d*[AK]|\x1b\[\?\d+[hl])", written):
        if part.endswith("\n"):
            row += 1
            lines += [""] * (row == len(lines))
        elif part.endswith("A"):
            row = max(0, row - int(part[2:-1] or 1))
        elif part.endswith("K") and part.startswith("\x1b"):
            lines[row] = ""
        elif not part.startswith("\x1b[?") and part != "\r":
            lines[row] += part
    while lines and not Text.from_ansi(lines[-1]).plain.strip():
        lines.pop()
    return lines


def table(folder: Path) -> None:
    """The table as LaTeX prints it."""
    source = folder / "results" / "beta" / "digits" / "table.tex"
    with tempfile.TemporaryDirectory() as made:
        quiet = {"check": True, "cwd": made, "stdout": subprocess.DEVNULL}
        subprocess.run(["pdflatex", "-interaction=batchmode", str(source)], **quiet)  # type: ignore[call-overload]
        subprocess.run(["pdftoppm", "-png", "-r", "110", "-singlefile", "table.pdf", "table"], **quiet)  # type: ignore[call-overload]
        page = Image.open(Path(made) / "table.png").convert("RGB")
    paper = Image.new("RGB", page.size, "white")
    left, top, right, bottom = ImageChops.difference(page, paper).getbbox() or (0, 0, *page.size)
    save(page.crop((left - 20, top - 20, right + 20, bottom + 20)), "table", width=None)


def figure(folder: Path) -> None:
    """The figure over β."""
    save(Image.open(folder / "results" / "beta" / "digits" / "figures" / "beta.png"), "beta", width=None)


def report(folder: Path) -> None:
    """The upper part of the report page."""
    page = folder / "results" / "beta" / "digits" / "report.html"
    save(photograph(page.as_uri(), 1200, 1500), "report")


def mlflow(folder: Path) -> None:
    """The comparison of the runs in MLflow, as `cplearn ui` opens it."""
    command = [*CPLEARN, "ui", "--port", "5017"]
    process = subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout
        # It prints its pages when they answer.
        links = (re.match(r"charts +http://127.0.0.1(\S+)", line) for line in process.stdout)
        link = next(filter(None, links))[1]
        save(photograph(f"http://{HOST}{link}", 1500, 1000, seconds=60), "mlflow")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def notebook(folder: Path) -> None:
    """Run the notebook and keep in it what its cells show."""
    content = json.loads(NOTEBOOK.read_text())
    names: dict[str, Any] = {}
    before = Path.cwd()
    os.chdir(folder)
    os.environ.update(environment(folder))
    sys.path.insert(0, str(ROOT))
    try:
        for cell in content["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"] = run_cell("".join(cell["source"]), names)
    finally:
        os.chdir(before)
    NOTEBOOK.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def run_cell(source: str, names: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a cell of a notebook in a namespace; returns what it shows as Jupyter keeps it: printed lines, the value of
    a last expression."""
    code, printed, value = ast.parse(source), io.StringIO(), None
    last = code.body.pop() if code.body and isinstance(code.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(printed):
        exec(compile(code, NOTEBOOK.name, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names)
    shown: list[dict[str, Any]] = []
    if text := printed.getvalue():
        shown.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if value is not None:
        data: dict[str, Any] = {}
        if isinstance(value, Image.Image):
            data["image/png"] = base64.b64encode(_png(value)).decode()
        else:
            data["text/plain"] = repr(value).splitlines(keepends=True)
        if hasattr(value, "_repr_html_"):
            data["text/html"] = value._repr_html_().splitlines(keepends=True)
        shown.append({"output_type": "execute_result", "execution_count": None, "metadata": {}, "data": data})
    return shown


def photograph(address: str, width: int, height: int, seconds: int = 10) -> Image.Image:
    """A page as Chromium draws it in a window of some size."""
    with tempfile.TemporaryDirectory() as profile:
        picture = Path(profile) / "page.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb"]
        options += [f"--window-size={width},{height}", f"--virtual-time-budget={1000 * seconds}"]
        options += [f"--host-resolver-rules=MAP {HOST} 127.0.0.1"]
        options += [f"--user-data-dir={profile}/profile", f"--screenshot={picture}", address]
        subprocess.run(["chromium", *options], check=True, capture_output=True, timeout=120)
        return Image.open(picture).convert("RGB")


def save(picture: Image.Image, name: str, width: int | None = 900) -> None:
    """Write a small picture: at most so wide, with few colours."""
    if width and picture.width > width:
        picture = picture.resize((width, picture.height * width // picture.width), Image.Resampling.LANCZOS)
    (IMAGES / f"{name}.png").write_bytes(_png(picture))


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    # Of the ways of Pillow this one keeps the rare colours of lines.
    small = picture.convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(file, "PNG", optimize=True)
    return file.getvalue()


PARTS: dict[str, Callable[[Path], None]] = {
    part.__name__: part for part in (terminal, table, figure, report, mlflow, notebook)
}


def main() -> None:
    """Make the pictures that are asked for."""
    parser = argparse.ArgumentParser(description="Make the pictures of the documentation.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "pictures", help="store and results")
    given = parser.parse_args()
    parts = given.parts or list(PARTS)
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if {"table", "figure", "report", "mlflow"} & {*parts}:
        subprocess.run([*CPLEARN, *SWEEP], cwd=folder, env=environment(folder), check=True)
    for part in parts:
        PARTS[part](folder)
        print(f"{part}: done")


if __name__ == "__main__":
    main()
