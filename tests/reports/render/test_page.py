"""The report page: what it says, that it holds all it needs, and that a browser shows it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from frames import arrays, npz
from reports import build, figures, store, tables
from reports.render import page
from stores import AWKWARD, Writer, declare, sqlite, trial_metrics
from support import needs
from sweeps.errors import UserError

BETAS = [0.1, 1, 10]
CHROMIUM = "chromium"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Writer:
    """A sweep of three β and two seeds with artifacts, one trial of which has failed and one is missing."""
    folder = tmp_path_factory.mktemp("store")
    writer = Writer(sqlite(folder), folder / "mlartifacts")
    trials = [declare("slug", "<random> & backbone", {}, 0, "baseline")]
    writer.trial("pages", trials[0], metrics={"probe/accuracy": 0.99, "time/wall_s": 3})
    for beta in BETAS:
        for seed in (0, 1):
            trials.append(declare("slug", f"β={beta}", {"method.beta": beta}, seed))
            if (beta, seed) == (10, 1):
                writer.trial("pages", trials[-1], "FAILED", "FloatingPointError: <nan> & inf")
            elif (beta, seed) != (1, 1):
                metrics = trial_metrics(beta, seed) | {"kmeans/clusters": 10, "time/wall_s": 3000}
                run = writer.trial("pages", trials[-1], metrics=metrics, settings={"method.codes": 2048})
                diagnostics = {"singular_values": [3.0, 1.0], "code_counts": [5, 4, 0, 3]}
                writer.client.log_text(run, json.dumps(diagnostics), "diagnostics.json")
                (folder / "evaluation.npz").write_bytes(npz(arrays(seed)))
                writer.client.log_artifact(run, str(folder / "evaluation.npz"))
    writer.sweep("pages", "A <b>sweep</b> & more", {"method.beta": BETAS}, AWKWARD, trials)
    return writer


@pytest.fixture(scope="module")
def report(written: Writer, tmp_path_factory: pytest.TempPathFactory) -> build.Report:
    (found,) = build.build(written.uri, "pages", tmp_path_factory.mktemp("results"))
    return found


@pytest.fixture(scope="module")
def content(report: build.Report) -> str:
    return (report.folder / "report.html").read_text(encoding="utf-8")


def words(content: str) -> str:
    """What a reader sees of a page, on one line."""
    without = re.sub(r"<(style|title).*?</\1>|<[^>]+>", " ", content, flags=re.DOTALL)
    return " ".join(html.unescape(without).split())


def test_the_page_says_what_was_run_and_what_came_out(written: Writer, report: build.Report, content: str) -> None:
    text = words(content)
    assert "A <b>sweep</b> & more" in text
    assert "Trials: 1 failed, 5 finished, 1 missing; 2 seeds." in text
    # 600 / (1 + 200) is 3, with the seed 0 alone.
    assert "Cluster collapse β = 10 uses 3 of 2,048 codes Rule: fewer codes in use than classes (10)" in text
    assert "Below a baseline β = 0.1: linear accuracy" in text
    assert "β = 1 1 MISSING" in text
    assert "β = 10 1 FAILED FloatingPointError: <nan> & inf" in text
    assert "Commit c0ffee" in text
    assert "3 h 20 min of training and evaluation, all trials added up" in text
    assert "method.codes 2048" in text
    assert written.runs["slug/β=1/0"] in text
    lone = written.runs["slug/<random> & backbone/0"]
    for file, note in zip(("diagnostics.json", "evaluation.npz"), report.notes, strict=True):
        assert note.startswith(f"{file} is missing for <random> & backbone (run {lone}); figures lack these rows, and")
        assert f"{note}." in text
    assert "cplearn ui shows them" in text
    (row,) = re.findall(r"<tr><th scope=\"row\">0.1</th>(.*?)</tr>", content, re.DOTALL)
    accuracies = [trial_metrics(0.1, seed)["probe/accuracy"] for seed in (0, 1)]
    assert f"{sum(accuracies) / 2:.3f}" in words(row)


class _Tags(HTMLParser):
    VOID = ("meta", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.sources += [known[name] for name in ("src",) if name in known]
        self.links += [known["href"]] if "href" in known else []
        self.open += [] if tag in self.VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_needs_no_other_file(report: build.Report, content: str) -> None:
    tags = _Tags()
    tags.feed(content)
    assert tags.open == []
    assert len(tags.sources) == 8
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    linked = [link for link in tags.links if not link.startswith("#")]
    assert len(linked) == 3 * 8
    assert all((report.folder / link).is_file() for link in linked)
    assert len(content) < 5_000_000


def test_runs_are_linked_where_mlflow_has_a_server(written: Writer, tmp_path: Path) -> None:
    (result,) = store.read_sweep(written.uri, "pages")
    table = replace(tables.table_of_sweep(result), statistics=("What bold means.",))
    shown = page.render(result, table, [], tmp_path, "https://mlflow.example/#/experiments/1/runs/")
    run = written.runs["slug/β=1/0"]
    assert f'href="https://mlflow.example/#/experiments/1/runs/{run}"' in shown
    assert "cplearn ui" not in shown
    assert "What bold means." in shown
    assert store.runs_at(written.uri) == ""  # a file has no pages


def test_figures_beyond_the_size_of_a_page_are_named_only(
    written: Writer, report: build.Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MOST_BYTES", 100_000)
    (result,) = store.read_sweep(written.uri, "pages")
    plots = list(figures.plots(result, figures.read_samples(result, store.artifact_reader(written.uri))))
    content = page.render(result, report.table, plots, report.folder / "figures", None)
    assert 0 < content.count("<img") < 8
    assert content.count("<img") + content.count("Too large for this page") == 8


def test_the_same_runs_give_the_same_page_where_an_earlier_report_was(
    written: Writer, content: str, tmp_path: Path
) -> None:
    """Figures of the earlier report that are no longer drawn go, files of others stay."""
    folder = tmp_path / "pages" / "slug" / "figures"
    folder.mkdir(parents=True)
    for name in ("gone.png", "mine.png"):
        (folder / name).touch()
    (tmp_path / "pages" / "outside").touch()
    (folder / build.WRITTEN).write_text("gone.png\nbeta.png\n../../outside\n")
    (again,) = build.build(written.uri, "pages", tmp_path)
    assert (again.folder / "report.html").read_text(encoding="utf-8") == content
    left = {path.name for path in folder.iterdir()}
    assert "gone.png" not in left
    assert left >= {"mine.png", "beta.png", "adjacency.pdf"}
    assert (tmp_path / "pages" / "outside").exists()
    assert "mine.png" not in (folder / build.WRITTEN).read_text()


def test_an_artifact_that_cannot_be_read_is_named(written: Writer, tmp_path: Path) -> None:
    reader = store.artifact_reader(written.uri)
    run = written.runs["slug/β=1/0"]
    assert json.loads(reader(run, "diagnostics.json") or b"")["singular_values"] == [3.0, 1.0]
    assert reader(run, "none.json") is None
    assert reader(run, "folder/none.json") is None
    with pytest.raises(UserError, match=r"diagnostics.json of run nosuchrun .* cannot be read"):
        reader("nosuchrun", "diagnostics.json")


@pytest.mark.parametrize(("seconds", "spelled"), [(4.26, "4.26 s"), (720, "12 min"), (11_100, "3 h 05 min")])
def test_durations_are_short(seconds: float, spelled: str) -> None:
    assert page.duration(seconds) == spelled


@needs(CHROMIUM)
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_the_page_without_errors_and_without_scrolling_sideways(
    content: str, tmp_path: Path, width: int
) -> None:
    # Chromium's windows have a least width; a frame has not.
    (tmp_path / "frame.html").write_text(
        f'<iframe style="border: 0; width: {width}px; height: 900px" srcdoc="{html.escape(content)}"></iframe><script>'
        "onload = () => { const shown = document.querySelector('iframe').contentDocument; "
        "const root = shown.documentElement; "
        "document.title = ['measured', root.clientWidth, root.scrollWidth, "
        "[...shown.images].filter(image => image.naturalWidth > 100).length].join(' ') }</script>",
        encoding="utf-8",
    )
    command = [shutil.which(CHROMIUM) or CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--window-size=1400,1000"]
    done = subprocess.run(
        [*command, (tmp_path / "frame.html").as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr
    client, scroll, images = map(int, re.findall(r"measured (\d+) (\d+) (\d+)", done.stdout)[0])
    assert width - 20 < client == scroll, "a scroll bar beside, nothing that is wider than the frame"
    assert images == 8
