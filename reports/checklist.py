"""Answers from the store to what the NeurIPS paper checklist and the machine learning reproducibility checklist (Pineau
et al., JMLR 2021) ask of experiments; blanks where the store cannot know."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from reports import spelling
from reports.render.files import markdown, program
from reports.render.latex import latex
from reports.statistics import inference
from reports.statistics.compute import device_hours
from reports.store import SweepResult
from reports.tables.sweep import commits, shared_settings
from sweeps.record import BASELINE, UNSEEN, WALL_SECONDS, Tag

BLANK = "(to be answered by the authors)"
STATES = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "stopped", "RUNNING": "not ended"}
LICENCES = {
    "digits": "CC BY 4.0 (UCI, Optical Recognition of Handwritten Digits)",
    "svhn": "none stated; its page asks for non-commercial use only",
    "cifar10": "none stated by its authors",
    "cifar100": "none stated by its authors",
    "stl10": "none stated by its authors; a part of ImageNet, whose terms ask for non-commercial research",
    "tiny-imagenet": "terms of ImageNet: non-commercial research and education",
    "imagenet100": "terms of ImageNet: non-commercial research and education",
}
"""Of the public data sets, as their pages say it."""


@dataclass(frozen=True)
class Item:
    """A question of the checklists, and its answers, a sentence each; none where the authors must answer."""

    question: str
    asked_by: str
    answers: tuple[str, ...] = ()


def checklist(results: Sequence[SweepResult], runs: pd.DataFrame) -> list[Item]:
    """The items for some sweeps; `runs` are all runs of the experiment (`store.read_runs`), which tell what was failed
    or tried beside them."""
    reported = pd.concat([result.runs for result in results], ignore_index=True).drop_duplicates("key")
    finished = reported[reported["status"] == "FINISHED"]
    return [
        Item("How many runs and seeds stand behind the results?", "NeurIPS 7, ML 4b", tuple(map(_runs, results))),
        Item("How were error bars computed, and what varies?", "NeurIPS 7, ML 4c", tuple(_error_bars(results))),
        Item("How were settings chosen, and from how many?", "NeurIPS 6, ML 4a", tuple(map(_chosen, results))),
        Item("Which settings do all trials share?", "NeurIPS 6, ML 4a", tuple(map(_shared, results))),
        Item("What did each trial and what did all take?", "NeurIPS 8, ML 4d", tuple(_compute(finished, runs))),
        Item("Were there failed or preliminary runs?", "NeurIPS 8", tuple(_others(reported, runs))),
        Item("On which hardware?", "NeurIPS 8, ML 4e", tuple(_hardware(finished))),
        Item("With which code and versions?", "NeurIPS 5, ML 3", tuple(_code(finished))),
        Item("On which data, with which splits?", "NeurIPS 4, ML 2", tuple(map(_data, results))),
        Item("Under which licences are the data?", "NeurIPS 12", tuple(dict.fromkeys(map(_licence, results)))),
        Item("Where can readers get code, models and data?", "NeurIPS 5, ML 3"),
        Item("Was any data collected or left out, and with whose consent?", "NeurIPS 13 to 15, ML 2"),
    ]


def to_markdown(items: Sequence[Item], subject: str) -> str:
    """The checklist as markdown."""
    lines = [f"# Checklist of experiments: {markdown(subject)}", "", f"Written by {program()} from the tracking store."]
    for item in items:
        lines += ["", f"**{item.question}** ({item.asked_by})", ""]
        lines += [f"- {markdown(answer)}" for answer in item.answers or (BLANK,)]
    return "\n".join(lines) + "\n"


def to_latex(items: Sequence[Item], subject: str) -> str:
    """The checklist as a LaTeX list, for `\\input`; it needs no package."""
    lines = [
        f"% Checklist of experiments: {latex(subject)}. Written by: cplearn report --checklist",
        r"\begin{enumerate}",
    ]
    for item in items:
        lines.append(rf"\item \textbf{{{latex(item.question)}}} ({latex(item.asked_by)})\par")
        lines += [latex(answer) + r"\par" for answer in item.answers or (BLANK,)]
    return "\n".join([*lines, r"\end{enumerate}"]) + "\n"


def _name(result: SweepResult) -> str:
    return f"{result.sweep} on {result.slug}"


def _runs(result: SweepResult) -> str:
    runs = result.runs
    finished = int((runs["status"] == "FINISHED").sum())
    return (
        f"{_name(result)}: {finished} of {len(runs)} trials have finished, over {spelling.seeds(result.seeds)} "
        f"({len(result.seeds)}); {runs.loc[runs['role'] != BASELINE, 'label'].nunique()} settings and "
        f"{runs.loc[runs['role'] == BASELINE, 'label'].nunique()} baselines. Each is trained and evaluated once a seed."
    )


def _error_bars(results: Sequence[SweepResult]) -> Iterator[str]:
    most = max(len(result.seeds) for result in results)
    if most < 2:
        yield "There are none: one seed."
        return
    yield "Printed are mean and sample standard deviation (ddof = 1) over seeds, of the metrics after the last epoch."
    how = "Student's t" if most < inference.FEW else f"the symmetric bootstrap-t ({inference.RESAMPLES:,} resamples)"
    yield (
        f"Intervals are 95 % intervals of the mean by {how}. Rows are compared by a paired test at equal seeds, Holm's "
        f"correction over all pairs of rows, level {inference.LEVEL}."
    )
    yield "A seed draws initial weights, batches and views; train and test split are the same for all seeds."


def _chosen(result: SweepResult) -> str:
    axes = [f"{axis} ({len(values)}: {spelling.one_line(_listed(values))})" for axis, values in result.axes.items()]
    if result.search:
        objectives = result.search["objectives"]
        seen = [name for name in objectives if not name.startswith(UNSEEN)]
        by = f"{_name(result)}: Optuna suggested points to optimise {', '.join(objectives)}"
        warned = ", which is measured on the test split" if seen else ", which never sees the test split"
        return f"{by}{warned}, over {', '.join(result.axes)}, of {result.search['trials']} suggestions."
    if not axes:
        return f"{_name(result)}: nothing was chosen; each setting is shown."
    chosen = f" Tables that choose among them say by what ({', '.join(result.tables)})." if result.tables else ""
    return f"{_name(result)}: a grid over {'; '.join(axes)}. All of it is shown, none chosen by the report.{chosen}"


def _listed(values: Sequence[object]) -> str:
    texts = spelling.values(values)
    return ", ".join(texts if len(texts) < 13 else [*texts[:6], "...", *texts[-6:]])


def _shared(result: SweepResult) -> str:
    listed = ", ".join(f"{key}={value}" for key, value in shared_settings(result).items() if key != "seed")
    return f"{_name(result)}: {listed or 'none'}."


def _hours(runs: pd.DataFrame, seconds: str = WALL_SECONDS) -> str:
    return " and ".join(f"{hours:.3g} {unit}" for unit, hours in device_hours(runs, seconds).items()) or "unknown"


def _compute(finished: pd.DataFrame, runs: pd.DataFrame) -> Iterator[str]:
    if WALL_SECONDS in finished and len(times := finished[WALL_SECONDS].dropna()):
        low, middle, high = (times.quantile(q) / 60 for q in (0.0, 0.5, 1.0))
        yield f"A trial took {middle:.3g} minutes (median; {low:.3g} to {high:.3g}), training and evaluation together."
    yield f"The finished trials behind the results: {_hours(finished)}."
    yield f"All runs of the experiment, failed and preliminary ones included: {_hours(_timed(runs), 'seconds')}."


def _timed(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with a column `seconds`: their own time, else that from start to end; what a run does not say of its device
    is taken to be as in most runs."""
    own = runs.reindex(columns=[WALL_SECONDS])[WALL_SECONDS]
    timed = runs.assign(seconds=own.fillna(runs["elapsed"]))
    for column in (Tag.DEVICE.column, Tag.THREADS.column, Tag.RANKS.column):
        if column in timed and len(usual := timed[column].mode()):
            timed[column] = timed[column].fillna(usual[0])
    return timed


def _others(reported: pd.DataFrame, runs: pd.DataFrame) -> Iterator[str]:
    timed = _timed(runs)
    behind = timed["run_id"].isin(reported.loc[reported["status"] == "FINISHED", "run_id"])
    others = timed[~behind]
    if others.empty:
        yield "The experiment holds no other run than those behind the results."
        return
    for status, group in others.groupby("status"):
        names = ", ".join(sorted(set(group["sweep"].dropna())))
        yield (
            f"Of runs that are not behind the results, {len(group)} {STATES.get(str(status), str(status).lower())} "
            f"(sweeps {names}): {_hours(group, 'seconds')}, from start to end where a run has not measured its time."
        )
    yield "Runs that were deleted from the store, or made outside of it, are not counted."


def _hardware(finished: pd.DataFrame) -> Iterator[str]:
    columns = [tag.column for tag in (Tag.DEVICE_NAME, Tag.CPUS, Tag.THREADS, Tag.RANKS)]
    kinds = Counter(finished.reindex(columns=columns).fillna("?").itertuples(index=False, name=None))
    for (device, cpus, threads, ranks), count in kinds.most_common():
        shared = f", {ranks} processes a trial" if ranks not in ("?", "1") else ""
        yield f"{device} ({count} trials): cores of the host {cpus}, threads of a process {threads}{shared}."


def _code(finished: pd.DataFrame) -> Iterator[str]:
    yield f"Commit {', '.join(sorted(commits(finished).dropna().unique())) or 'unknown'}."
    for text in finished.reindex(columns=[Tag.VERSIONS.column])[Tag.VERSIONS.column].dropna().unique():
        yield ", ".join(f"{package} {version}" for package, version in json.loads(text).items()) + "."
    commands = finished.reindex(columns=[Tag.COMMAND.column])[Tag.COMMAND.column].dropna()
    if len(commands):
        yield f"Each run keeps the command that repeats it, the first of them: {commands.iloc[0]}"


def _data(result: SweepResult) -> str:
    about = result.about
    sizes = f"{about.get('train_images', 0):,} training and {about.get('test_images', 0):,} test images"
    source = f", from {about['source']}" if about.get("source") else ""
    return f"{result.slug}: {sizes}, fingerprint {about['fingerprint']}{source}."


def _licence(result: SweepResult) -> str:
    return f"{result.slug}: {LICENCES.get(result.dataset.partition(':')[0], BLANK)}."
