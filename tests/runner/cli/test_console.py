"""What every command prints: text as it reads, whole numbers on any terminal, and quickly."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from frames import grid, result
from reports.render import terminal
from reports.tables import table_of_sweep
from runner.cli import console, progress, sweep
from runner.cli.console import SafeConsole
from runner.driver.result import Tally
from runner.events import TrialResult
from runner.planning.plan import Plan, command
from runner.timing.progress_estimate import ProgressEstimate
from runner.timing.timings import Timing, timing_key

BAD = "[/] [bold]x[/] :smile: \\"


def screen(width: int | None = None, **environment: str) -> SafeConsole:
    """A terminal in these circumstances."""
    return SafeConsole(file=io.StringIO(), force_terminal=True, width=width, _environ={"TERM": "xterm", **environment})


def printed(shown: SafeConsole) -> str:
    return shown.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_help_loads_neither_pydantic_nor_a_library_of_a_command(root: Path) -> None:
    code = (
        "import sys, contextlib, runner.cli; sys.argv = ['cplearn', '--help']\n"
        "with contextlib.suppress(SystemExit): runner.cli.main()\n"
        "print(sorted({'pydantic', 'torch', 'pandas', 'numpy', 'ray', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_texts_are_printed_as_they_read_without_control_characters() -> None:
    shown = screen(width=40, NO_COLOR="1")
    console.show(("failed:", "red"), f" {BAD}", (BAD, "bold"), " \x1b[31m\x07\x9b\u202ered\n", console=shown)
    assert re.sub(r"\x1b\[[01]m", "", printed(shown)) == f"failed: {BAD}{BAD} [31mred\n\n"


def test_a_terminal_of_another_encoding_is_no_traceback(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli", "data", "β"],
        cwd=root,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == console.BAD_INPUT
    assert done.stderr.startswith("error: ")
    assert "'?'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("shown", [screen(TERM="dumb"), screen(width=30), screen(width=12), screen(NO_COLOR="1")])
def test_a_table_is_never_cut_into_its_numbers(shown: SafeConsole) -> None:
    axes = {"arm": [BAD, "a name that is longer than half of a narrow terminal"]}
    table = table_of_sweep(result(axes, grid(axes)))
    for render in (terminal.render_sweep, terminal.render_table):
        shown.print(render(table, shown.width), crop=False)
    text = printed(shown)
    assert text.count(" 0.900") == 4
    assert "…" not in text
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", text) or not shown.no_color


def test_a_terminal_that_writes_line_by_line_has_room() -> None:
    assert screen(TERM="dumb").width == 250
    assert not screen(TERM="dumb").is_interactive
    assert screen(width=70).width == 70


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> SafeConsole:
    """A terminal of 80 columns, where the live table and its lines go."""
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0)
    return use(screen(width=80, NO_COLOR="1"), monkeypatch)


def use(shown: SafeConsole, monkeypatch: pytest.MonkeyPatch) -> SafeConsole:
    """Let the live table and its lines go to this terminal."""
    monkeypatch.setattr(progress, "out", shown)
    monkeypatch.setattr(console.show, "__kwdefaults__", {"console": shown})
    return shown


def drawn(shown: SafeConsole, display: progress.Progress) -> str:
    """The live table as it stands."""
    with shown.capture() as capture:
        shown.print(display.render())
    return re.sub(r"\x1b\[[0-9;]*m", "", capture.get())


def test_progress_prints_any_name_and_promises_no_seconds(plan: Plan, shown: SafeConsole) -> None:
    jobs = [replace(job, label=BAD) for job in plan.jobs[:3]]
    estimate = ProgressEstimate({timing_key(jobs[0]): Timing(0.001, 0.0, 0.9, 1.1, "finished runs", 5)})
    tally = Tally(jobs, 0, estimate, lambda: 0)
    display = progress.Progress(tally)
    assert " left" not in drawn(shown, display), "nothing is known before the trials are planned"
    for listener in (tally, display):
        listener.planned(jobs)
        listener.started(jobs[0])
        listener.epoch(jobs[0], 3, {"train/loss": 1.25})
    assert "1 running · 2 waiting · 0 s elapsed · less than a minute left" in " ".join(drawn(shown, display).split())
    for job in jobs:
        for listener in (tally, display):
            listener.finished(job, TrialResult({"probe/accuracy": 0.5}, {}, {}))
    display.failed(jobs[0], f"ValueError: {BAD}", "exception")
    text = re.sub(r"\x1b\[[0-9;]*m", "", printed(shown))
    assert text.count(BAD) == 5
    assert "done   3/3" in text
    assert jobs[0].key not in text, "lines above the live table are short"


def test_lines_in_a_log_have_key_and_time(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    log = use(screen(TERM="dumb", NO_COLOR="1"), monkeypatch)
    job = plan.jobs[0]
    tally = Tally([job], 0, ProgressEstimate({}), lambda: 0)
    display = progress.Progress(tally)
    for listener in (tally, display):
        listener.planned([job])
        listener.started(job)
        listener.finished(job, TrialResult({"probe/accuracy": 0.5}, {}, {}))
    assert re.search(rf"^done   1/1 .*  accuracy 0.500  {job.key} \(0 s\)$", printed(log), re.MULTILINE)


def test_without_labels_view_information_stands_for_accuracy(plan: Plan, shown: SafeConsole) -> None:
    job = plan.jobs[0]
    tally = Tally([job], 0, ProgressEstimate({}), lambda: 0)
    display = progress.Progress(tally)
    for listener in (tally, display):
        listener.planned([job])
        listener.started(job)
    watched = {"train/loss": 1.0, "train/view_information": 2.5, "train/codes_used": 90.0, "train/effective_rank": 9.0}
    display.epoch(job, 1, watched)
    text = drawn(shown, display)
    assert re.search(r"codes +view inf\.$", text, re.MULTILINE)
    assert re.search(r" 90 +2\.500$", text, re.MULTILINE)
    metrics = {"select/view_information": 3.2514, "collapse/codes_used": 87.0, "select/rankme": 40.0}
    display.finished(job, TrialResult(metrics, {}, {}))
    assert "view information 3.251, codes 87" in printed(shown)


def test_the_live_table_says_what_goes_on(plan: Plan, shown: SafeConsole) -> None:
    jobs = plan.jobs[:3]
    tally = Tally(jobs, 0, ProgressEstimate({}), lambda: 0)
    display = progress.Progress(tally)
    display.phase = "Starting Ray"
    assert "Starting Ray ..." in drawn(shown, display)
    for listener in (tally, display):
        listener.planned(jobs)
    assert "Starting workers ..." in drawn(shown, display)
    for listener in (tally, display):
        listener.started(jobs[0])
        listener.started(jobs[1])
    assert drawn(shown, display).count(" starting ") == 2
    for epoch, loss in enumerate((8.0, 4.0, 1.0), start=1):
        watched = {"train/knn_accuracy": 0.25, "train/codes_used": 17.0}
        display.epoch(jobs[0], epoch, {"train/loss": loss, "train/online_accuracy": 0.5, **watched})
    text = drawn(shown, display)
    assert re.search(rf"{re.escape(jobs[0].name)} +3/9 +1 +█▄▁ +0.500 +0.250 +17$", text, re.MULTILINE)
    assert re.search(rf"{re.escape(jobs[1].name)} +starting +- +- +- +-$", text, re.MULTILINE)
    assert "view inf." not in text, "no trial measures it"
    assert max(map(len, text.splitlines())) <= 80
    display.epoch(jobs[0], 9, {"train/loss": 1.0})
    assert "evaluating" in drawn(shown, display)
    for job, accuracy in ((jobs[1], 0.75), (jobs[0], 0.5)):
        for listener in (tally, display):
            listener.finished(job, TrialResult({"probe/accuracy": accuracy}, {}, {}))
    assert f"best so far: {jobs[1].dataset} {jobs[1].name}: accuracy 0.750" in drawn(shown, display)


def test_a_narrow_terminal_keeps_epoch_and_loss(plan: Plan, shown: SafeConsole) -> None:
    shown.width = 40
    tally = Tally(plan.jobs[:1], 0, ProgressEstimate({}), lambda: 0)
    display = progress.Progress(tally)
    for listener in (tally, display):
        listener.planned(plan.jobs[:1])
        listener.started(plan.jobs[0])
        listener.epoch(plan.jobs[0], 1, {"train/loss": 1.5})
    text = drawn(shown, display)
    assert re.search(r" 1/9 +1.5$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 40


def test_what_goes_on_is_a_line_where_nothing_can_be_drawn_anew(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    dumb = screen(TERM="dumb")
    monkeypatch.setattr(sweep, "out", dumb)
    monkeypatch.setattr(console.show, "__kwdefaults__", {"console": dumb})
    observer = sweep.TerminalObserver()
    with observer:
        observer.doing("Preparing the data")  # A mistake that is found meanwhile is one line.
        with observer.running(Tally(plan.jobs, 0, ProgressEstimate({}), lambda: 0)):
            observer.doing("Starting Ray")
        observer.doing("Writing tables and figures")
    assert printed(dumb) == "Starting Ray ...\n"


def test_a_command_quotes_what_is_no_yaml(plan: Plan) -> None:
    trial = plan.jobs[0].trial
    recipe = trial.model_copy(update={"augment": trial.augment.model_copy(update={"recipe": "[/]: \x1b"})})
    assert r"""--set 'augment.recipe="[/]: \u001b"'""" in command(recipe)
