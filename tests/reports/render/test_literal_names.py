"""Names that mean something to a format, all through one report: each file says them as they read."""

from __future__ import annotations

import csv
import html
import io
import random
import re
import subprocess
import unicodedata
import warnings
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.style
import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from matplotlib.text import Text

from frames import arrays, grid, npz, result
from reports import build, figures, provenance, spelling, store
from reports.figures import canvas
from reports.render import latex, terminal
from runner.cli.console import SafeConsole
from stores import Writer, declare, sqlite, trial_metrics
from support import needs

PLAIN = r"""[12] theirs
[/]
[bold]x
*
*best*
\
\\[2cm]
\input{x}
$\bm{\beta}$ small
$
$$x$
{
}
~ ^ # % & _
<script>alert(1)</script>
&amp;
</td>
a|b
`code`
![x](y)
---
1. one
- item
# head
:smile:
_private
=1+1
+x
-x
@SUM(A1)
"quoted", text
-0.5
1e5
...
数据
नमस्ते
سلام
🙂
ẽ
٣
Łódź
?`
{{ 7 * 7 }}
<% x %>
<<x>>
%s {0}
'""".splitlines()
PICKED = [*PLAIN, "e\u0303", "x\x1b[31mred", "x\u202ey", "a\tb\nc", "\x7f\x9b\x01z", "\\" * 3, "x" * 300]
ALPHABET = "\\{}$&#%_~^[]()<>|*`!:;\"'=+-@/. \t\n\x00\x1b\u202e\u2028aZ0é数🙂"


def drawn_names(count: int) -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(ALPHABET, k=draw.randint(1, 12))) + f" {place}" for place in range(count)]


NAMES = [*PICKED, *drawn_names(20)]
SEEN = [spelling.one_line(name) for name in NAMES]
SWEEP, BASELINE = r"$\foo$ & [bold] #1 <b>", "[/] $x$ _ <i>"
RUN = 4
"""Trials with a run; the others are missing, but their names stand in every file."""
TEXT = "50% of [/] $x \\foo & <b>\x1b[31m **bold** _"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """A sweep with an arm for each name, the last of which has failed; all else that a user names is as bad."""
    folder = tmp_path_factory.mktemp("store")
    writer = Writer(sqlite(folder), folder / "mlartifacts")
    (folder / "evaluation.npz").write_bytes(npz(arrays()))
    trials = [declare("slug", BASELINE, {}, 0, "baseline"), *(declare("slug", n, {"arm": n}, 0) for n in NAMES)]
    for place, trial in enumerate(trials):
        trial["key"] = f"{place:016x}"
    for trial in trials[:RUN]:
        metrics = trial_metrics(1, 0) | {"kmeans/clusters": 10}
        run = writer.trial(SWEEP, trial, metrics=metrics, settings={"method.note": TEXT})
        writer.client.log_text(run, '{"singular_values": [3, 1], "code_counts": [5, 4, 3]}', "diagnostics.json")
        writer.client.log_artifact(run, str(folder / "evaluation.npz"))
    writer.trial(SWEEP, trials[-1], "FAILED", f"Error: {TEXT}")
    writer.sweep(SWEEP, TEXT, {"arm": NAMES}, "folder:/data/=[/] $x$|<b>", trials)
    return writer


@pytest.fixture(scope="module")
def report(written: Writer, tmp_path_factory: pytest.TempPathFactory) -> build.Report:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = build.build(written.uri, SWEEP, tmp_path_factory.mktemp("results"))
    return found


def test_no_file_holds_a_control_character_and_the_table_still_verifies(written: Writer, report: build.Report) -> None:
    for path in report.files:
        if path.suffix not in (".png", ".pdf"):
            assert not spelling.CONTROL.search(path.read_text(encoding="utf-8")), path
    (checked,) = provenance.verify(written.uri, report.folder)
    assert not checked.drift


@needs("pdflatex")
def test_latex_compiles(report: build.Report) -> None:
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    source = (report.folder / "table.tex").read_text(encoding="utf-8")
    folder = report.folder / "paper"
    folder.mkdir()
    (folder / "table.tex").write_text(source, encoding="utf-8")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    rows = [line for line in source.splitlines() if line.endswith(r"\\")]
    assert not [line for line in rows if re.match(r"\s*[\[*]", line)], "the row before would take it for its option"


@needs("pdflatex")
def test_every_letter_that_is_left_as_it_is_compiles(tmp_path: Path) -> None:
    left = [chr(code) for code in range(0x20, 0x3000) if unicodedata.category(chr(code))[0] in "LNPS"]
    lines = "\n".join(latex.latex(f"{letter} {letter}") + r"\\" for letter in left if "U+" not in latex.latex(letter))
    document = rf"\documentclass{{article}}\begin{{document}}{lines}\end{{document}}"
    (tmp_path / "letters.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "letters.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]


class _Cells(HTMLParser):
    """The texts of the cells of tables, and all text; every tag is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open
        self.cells = [" ".join(cell.split()) for cell in self.cells]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.cells and {"th", "td"} & set(self.open):
            self.cells[-1] += data


def test_html_says_the_names(report: build.Report) -> None:
    for file in ("table.html", "report.html"):
        page = _Cells((report.folder / file).read_text(encoding="utf-8"))
        assert "script" not in page.tags
        for name in (*SEEN[:-1], BASELINE):
            assert name in page.cells, (file, name)
        assert spelling.one_line(SWEEP) in " ".join(page.text.split())


def test_markdown_says_the_names(report: build.Report) -> None:
    shown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    page = shown.render((report.folder / "table.md").read_text(encoding="utf-8"))
    assert page.count("<table>") == 1
    rows = re.findall(r"<tr>\s*<td[^>]*>(.*?)</td>", page, re.DOTALL)
    assert [html.unescape(re.sub("</?em>", "", row)) for row in rows] == [BASELINE, *SEEN]
    caption = html.unescape(page.partition("<table>")[0])
    assert f"{SWEEP} on " in caption
    assert spelling.one_line(TEXT) in caption
    assert not re.search(r"<(strong|em|code|a|img|h\d|s)\b", page.partition("<table>")[0])


def test_csv_has_no_formula_and_numbers_stay_numbers(report: build.Report) -> None:
    for path in (report.folder / "table.csv", report.folder / "runs.csv", report.folder / "figures" / "rows.csv"):
        cells = [cell for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"))) for cell in row]
        for cell in cells:
            assert not re.match(r"\s*[=@]|\s*[+-](?![0-9.])", cell), (path, cell)
        if path.name == "runs.csv":
            assert {"'=1+1", "'+x", "'@SUM(A1)", "-0.5", "[/]"} <= set(cells)


def texts(figure: Figure) -> set[str]:
    figure.canvas.draw()
    found = figure.findobj(Text)
    assert not any(text.get_parse_math() for text in found)
    return {text.get_text() for text in found}


def test_figures_draw_the_names_and_are_silent(written: Writer, report: build.Report) -> None:
    (read,) = store.read_sweep(written.uri, SWEEP)
    reader = store.artifact_reader(written.uri)
    plots = {plot.name: plot for plot in figures.plots(read, figures.read_samples(read, reader))}
    assert len(plots) >= 7
    with matplotlib.style.context(canvas.STYLE):
        assert {canvas.literal(name) for name in PLAIN[:7]} <= texts(plots["rows"].draw()) | {""}
        assert canvas.literal(BASELINE) in texts(plots["spectrum"].draw())
        assert canvas.literal("[12] theirs") in texts(plots["adjacency"].draw())
    assert all((report.folder / "figures" / f"{name}.pdf").is_file() for name in plots)


@pytest.mark.parametrize("names", [PLAIN[8:11], ("_private", "x" * 300, "数据", "a\tb\nc", "\x1b[0m")])
def test_few_names_stand_beside_each_other_and_in_legends(names: Sequence[str]) -> None:
    axes = {"arm": list(names), "method.codes": [10, 100]}
    read = result(axes, [{"label": names[0], "probe/accuracy": 0.5}, *grid(axes)])
    for plot in figures.plots(read, []):
        with matplotlib.style.context(canvas.STYLE), warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            drawn = " ".join(texts(plot.draw()))
        assert all(canvas.literal(name) in drawn for name in names if len(name) < canvas.MOST_LETTERS)


def test_the_terminal_says_the_names_and_nothing_else(report: build.Report) -> None:
    for width in (200, 20):
        shown = SafeConsole(file=io.StringIO(), width=width, force_terminal=True, _environ={"NO_COLOR": "1"})
        shown.print(terminal.render_sweep(report.table, width), terminal.render_table(report.table, width), crop=False)
        printed = re.sub(r"\x1b\[[0-9;]*m", "", shown.file.getvalue())  # type: ignore[attr-defined]
        assert not spelling.CONTROL.search(printed)
        if width == 200:
            assert all(name in printed for name in SEEN if len(name) < 60)
        accuracies = {row.cells[0].mean for row in report.table.rows if not row.cells[0].empty}
        assert all(accuracy in printed for accuracy in accuracies)
