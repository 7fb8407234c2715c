"""What MLflow's interface shows of a sweep at first sight: a view of the runs, kept as a tag of their experiment.

MLflow itself keeps what its button "Share" makes as tags `mlflow.sharedViewState.<key>`, each a document in JSON, and
shows it at `#/experiments/<id>/runs?viewStateShareKey=<key>`. The names in the document are those of MLflow 3.17; what
a later version does not know it leaves aside.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.utils.validation import MAX_EXPERIMENT_TAG_VAL_LENGTH

from cplearn.errors import InputError
from sweeps.addresses import experiment_name
from sweeps.record import LOSS, SWEEP, Tag, tag_is
from sweeps.spec import ARM

SHARED_VIEW = "mlflow.sharedViewState."

METRICS = {
    "probe/accuracy": "Linear accuracy",
    "codes/ami": "AMI of codes and labels",
    "collapse/codes_used": "Codes in use",
    "select/view_information": "View information",
}
"""The columns that decide, and how their charts are called."""
COURSES = {LOSS: "Loss", "train/codes_used": "Codes in use while training"}
SECTION = "cplearn-comparison"
FIXED_COLUMNS = {"attributes.`Run Name`": 140, "runDateAndNestInfo": 100}
"""Columns that every table of MLflow has, and their widths; the second shows the status as a mark."""
COLUMN_WIDTH = 80
MOST_AXES = 3  # Axes with a column of their own.
MOST_SWEEPS = 1000  # Sweeps, the newest first, among which one is found by its name.


def view(axes: Sequence[str]) -> dict[str, Any]:
    """The view of a sweep with these axes (dotted settings, or `arm`): columns for the axes and the metrics that
    decide, runs grouped by sweep, the best first, and charts of the metrics against the first axis."""
    settings = [axis for axis in axes if axis != ARM][:MOST_AXES]
    along = settings[0] if settings else "method.name"
    charts: list[dict[str, Any]] = [
        {
            "type": "SCATTER",
            "xaxis": {"key": along, "type": "PARAM"},
            "yaxis": {"key": metric, "type": "METRIC"},
            "displayName": f"{title} against {along}",
        }
        for metric, title in METRICS.items()
    ]
    charts += [
        {"type": "LINE", "metricKey": metric, "selectedMetricKeys": [metric], "displayName": title}
        for metric, title in COURSES.items()
    ]
    shared = {"metricSectionId": SECTION, "runsCountToCompare": 100, "deleted": False, "isGenerated": False}
    columns = [f"params.`{axis}`" for axis in settings] + [f"metrics.`{metric}`" for metric in METRICS]
    columns += [f"tags.`{Tag.LABEL}`"] if ARM in axes else []
    return {
        "selectedColumns": [*columns, f"tags.`{Tag.DATASET}`"],
        "columnOrder": [*FIXED_COLUMNS, *columns],
        "columnWidths": FIXED_COLUMNS | dict.fromkeys(columns, COLUMN_WIDTH),
        "orderByKey": "metrics.`probe/accuracy`",
        "orderByAsc": False,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": Tag.SWEEP}]},
        "useGroupedValuesInCharts": False,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": [{**chart, **shared, "uuid": f"cplearn-{place}"} for place, chart in enumerate(charts)],
        "isAccordionReordered": True,  # Else sections stand in the order of their names.
        "compareRunSections": [{"uuid": SECTION, "name": "Comparison", "display": True, "isReordered": True}],
        "hideEmptyCharts": True,
    }


def keep_view(client: MlflowClient, experiment: str, key: str, axes: Sequence[str]) -> None:
    """Keep the view of a sweep, by its key, with the experiment; a view that is too long for a tag is not kept."""
    document = json.dumps(view(axes), separators=(",", ":"))
    if len(document) <= MAX_EXPERIMENT_TAG_VAL_LENGTH:
        client.set_experiment_tag(experiment, SHARED_VIEW + _share_key(key), document)


def pages(uri: str, sweep: str | None = None) -> dict[str, str]:
    """Where MLflow shows the newest sweep, or the newest one of a name: its runs as a table and as charts, by these
    words, as the parts of the addresses after the server's. None for a store without an experiment.

    Raises InputError for an unknown sweep.
    """
    client = MlflowClient(uri)
    if not (experiment := client.get_experiment_by_name(experiment_name())):
        return {}
    runs = client.search_runs([experiment.experiment_id], tag_is(Tag.KIND, SWEEP), ViewType.ACTIVE_ONLY, MOST_SWEEPS)
    tags: dict[str, str] = next((run.data.tags for run in runs if sweep in (None, run.data.tags.get(Tag.SWEEP))), {})
    if sweep and not tags:
        raise InputError(f"{sweep!r}: the tracking store has no sweep of this name")
    key = tags.get(Tag.SWEEP_KEY, "")
    return addresses(experiment.experiment_id, key if SHARED_VIEW + _share_key(key) in experiment.tags else "")


def addresses(experiment: str, key: str) -> dict[str, str]:
    """The table and the charts of the view with this key, or without one as MLflow shows the runs itself."""
    # Without the type, the margin of the page offers tools for language models.
    address = f"#/experiments/{experiment}/runs?workflowType=machine_learning"
    address += f"&viewStateShareKey={_share_key(key)}" if key else ""
    return {"table": address, "charts": f"{address}&compareRunsMode=CHART"}


def _share_key(key: str) -> str:
    """A sweep's key in letters that a tag's name and an address may have."""
    return re.sub("[^A-Za-z0-9_.-]", "-", key)
