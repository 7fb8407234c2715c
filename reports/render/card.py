"""The card of an exported model: how to use it, its numbers, and where both come from."""

import json
import math
from collections.abc import Mapping
from typing import Any

import yaml

from reports import spelling
from reports.metrics import METRICS
from reports.render import parts
from reports.render.files import markdown, program
from sweeps.record import TIME, TRAIN, Tag

PROVENANCE = {
    "sweep": "sweep",
    "run": "run_id",
    "trial key": "key",
    "started (UTC)": "started",
    "data fingerprint": "fingerprint",
    "code": Tag.GIT_COMMIT.column,
    "code had edits": Tag.GIT_EDITED.column,
    "numerics": Tag.NUMERICS.column,
    "packages": Tag.VERSIONS.column,
    "device": Tag.DEVICE_NAME.column,
}
"""What a card says of a run, and the columns of its record."""


def model_card(config: Mapping[str, Any], run: Mapping[str, Any], settings: Mapping[str, Any], folder: str) -> str:
    """The card in markdown, with front matter as Hugging Face reads it.

    `config` is that of the exported files, `run` the record of the run (`store.read_run`), empty where a model comes
    from a folder; `settings` are those of its trial.
    """
    method, dataset = str(settings["method.name"]), str(settings["dataset"]).rsplit("/", 1)[-1]
    metrics = [
        (name, f"{value:.4f}")
        for name, value in sorted(run.items())
        if isinstance(value, float) and "/" in name and not name.startswith((TIME, TRAIN)) and math.isfinite(value)
    ]
    title = f"{config['architecture']} by {method} on {dataset}"
    templates = parts.environment()
    templates.filters.update(md=markdown, json=json.dumps, short="{:.4g}".format)
    return templates.get_template("card.md.j2").render(
        config=config,
        settings=settings,
        method=method,
        dataset=dataset,
        title=title,
        front_matter=_front_matter(config, method, dataset, title, run),
        folder=spelling.one_line(folder),
        metrics=metrics,
        provenance=[("program", program()), *((w, str(run[c])) for w, c in PROVENANCE.items() if run.get(c))],
        command=spelling.one_line(str(run.get(Tag.COMMAND.column) or "")),
    )


def _front_matter(config: Mapping[str, Any], method: str, dataset: str, title: str, run: Mapping[str, Any]) -> str:
    head: dict[str, Any] = {
        "library_name": config["library_name"],
        "pipeline_tag": "image-feature-extraction",
        "tags": [*([] if method in ("supervised", "untrained") else ["self-supervised-learning"]), method],
    }
    shown = {name: run[name] for name in ("probe/accuracy", "knn/accuracy") if math.isfinite(run.get(name, math.nan))}
    if shown:
        task = {"type": "image-classification", "name": "classification of frozen features"}
        measured = [
            {"type": "accuracy", "name": METRICS[name].heading, "value": round(value, 4)}
            for name, value in shown.items()
        ]
        result = {"task": task, "dataset": {"name": dataset, "type": dataset, "split": "test"}, "metrics": measured}
        head["model-index"] = [{"name": title, "results": [result]}]
    return yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
