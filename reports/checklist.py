"""Answers from the store to what the NeurIPS paper checklist and the machine learning reproducibility checklist (Pineau
et al., JMLR 2021) ask of experiments; blanks where the store cannot know. Questions and sentences stand in the template
checklist.txt.j2."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from reports import spelling
from reports.render import parts
from reports.render.files import markdown, program
from reports.render.latex import latex
from reports.statistics import inference
from reports.statistics.compute import device_hours
from reports.store import SweepResult
from reports.tables.sweep import commits, shared_settings, versions
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


def checklist(results: Sequence[SweepResult], runs: pd.DataFrame) -> dict[str, str]:
    """The texts of checklist.md and checklist.tex by their names; the latter is a list for `\\input` that needs no
    package. `runs` are all runs of the experiment (`store.read_runs`), which tell what was failed or tried beside the
    sweeps."""
    subject = ", ".join(dict.fromkeys(result.sweep for result in results))
    md = [f"# Checklist of experiments: {markdown(subject)}", "", f"Written by {program()} from the tracking store."]
    tex = [f"% Checklist of experiments: {latex(subject)}. Written by: cplearn report --checklist"]
    tex.append(r"\begin{enumerate}")
    for question, asked_by, answers in _items(_facts(results, runs)):
        md += ["", f"**{question}** ({asked_by})", "", *(f"- {markdown(answer)}" for answer in answers)]
        tex.append(rf"\item \textbf{{{latex(question)}}} ({latex(asked_by)})\par")
        tex += [latex(answer) + r"\par" for answer in answers]
    lines = {"checklist.md": md, "checklist.tex": [*tex, r"\end{enumerate}"]}
    return {name: "\n".join(text) + "\n" for name, text in lines.items()}


def _items(facts: dict[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """Each question, by whom it is asked, and its answers; the one answer is a blank where the authors must answer."""
    templates = parts.environment().overlay(finalize=lambda value: spelling.one_line(str(value)))
    for item in templates.get_template("checklist.txt.j2").render(facts).split("? ", 1)[1].split("\n? "):
        head, *answers = item.splitlines()
        question, _, asked_by = head.rpartition(" (")
        yield question, asked_by.rstrip(")"), list(filter(None, answers)) or [BLANK]


def _facts(results: Sequence[SweepResult], runs: pd.DataFrame) -> dict[str, Any]:
    reported = pd.concat([result.runs for result in results], ignore_index=True).drop_duplicates("key")
    finished = reported[reported["status"] == "FINISHED"]
    commands = finished.reindex(columns=[Tag.COMMAND.column])[Tag.COMMAND.column].dropna()
    hardware = finished.reindex(columns=[t.column for t in (Tag.DEVICE_NAME, Tag.CPUS, Tag.THREADS, Tag.RANKS)])
    times = finished.reindex(columns=[WALL_SECONDS])[WALL_SECONDS].dropna()
    timed = _timed(runs)
    others = timed[~timed["run_id"].isin(finished["run_id"])]
    return {
        "inference": inference,
        "sweeps": list(map(_of_sweep, results)),
        "most_seeds": max(len(result.seeds) for result in results),
        "minutes": [f"{times.quantile(q) / 60:.3g}" for q in (0.0, 0.5, 1.0)] if len(times) else [],
        "hours": _hours(finished),
        "all_hours": _hours(timed, "seconds"),
        "others": [
            (
                STATES.get(str(status), str(status).lower()),
                len(group),
                ", ".join(sorted(set(group["sweep"].dropna()))),
                _hours(group, "seconds"),
            )
            for status, group in others.groupby("status")
        ],
        "hardware": Counter(hardware.fillna("?").itertuples(index=False, name=None)).most_common(),
        "commits": sorted(commits(finished).dropna().unique()),
        "versions": versions(finished).unique(),
        "command": next(iter(commands), None),
        "licences": {result.slug: LICENCES.get(result.dataset.partition(":")[0], BLANK) for result in results},
    }


def _of_sweep(result: SweepResult) -> dict[str, Any]:
    """What is said of a sweep on a data set."""
    points = result.runs["role"] != BASELINE
    return {
        "result": result,
        "about": result.about,
        "search": result.search,
        "name": f"{result.sweep} on {result.slug}",
        "finished": int((result.runs["status"] == "FINISHED").sum()),
        "seeds": spelling.seeds(result.seeds),
        "settings": result.runs.loc[points, "label"].nunique(),
        "baselines": result.runs.loc[~points, "label"].nunique(),
        "seen": [name for name in (result.search or {}).get("objectives", ()) if not name.startswith(UNSEEN)],
        "axes": [f"{axis} ({len(values)}: {_listed(values)})" for axis, values in result.axes.items()],
        "shared": ", ".join(f"{key}={value}" for key, value in shared_settings(result).items() if key != "seed"),
    }


def _listed(values: Sequence[object]) -> str:
    texts = spelling.values(values)
    return ", ".join(texts if len(texts) < 13 else [*texts[:6], "...", *texts[-6:]])


def _hours(runs: pd.DataFrame, seconds: str = WALL_SECONDS) -> str:
    return " and ".join(f"{hours:.3g} {unit}" for unit, hours in device_hours(runs, seconds).items()) or "unknown"


def _timed(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs with a column `seconds`: their own time, else that from start to end; what a run does not say of its device
    is taken to be as in most runs."""
    measured = runs.reindex(columns=[WALL_SECONDS])[WALL_SECONDS]
    timed = runs.assign(seconds=measured.fillna(runs["elapsed"]))
    for column in (Tag.DEVICE.column, Tag.THREADS.column, Tag.RANKS.column):
        if column in timed and len(usual := timed[column].mode()):
            timed[column] = timed[column].fillna(usual[0])
    return timed
