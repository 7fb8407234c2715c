"""The trained model of a run as a *logged model* of MLflow 3, which its Models tab lists and `mlflow.pytorch` loads."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException

from sweeps.record import MODEL_FOLDER, param_text

if TYPE_CHECKING:
    from cplearn.model import Model

MODEL_TYPE = "backbone"
LONGEST_PARAM = 500  # Characters of a parameter, in MLflow's databases.


def open_model(
    client: MlflowClient, experiment: str, run_id: str, name: str, settings: Mapping[str, Any], *, again: bool
) -> str:
    """The id of a new logged model of a run; with `again`, of the one that an earlier attempt has made, if any."""
    if again:
        made = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'")
        if made:
            return str(made[0].model_id)
    # MLflow refuses these characters.
    name = re.sub(r"[/:.%\"']", "_", name)
    params = {key: param_text(value)[:LONGEST_PARAM] for key, value in settings.items()}
    model = client.create_logged_model(experiment, name, run_id, params=params, model_type=MODEL_TYPE)
    return str(model.model_id)


def close_model(client: MlflowClient, run_id: str, model_id: str, step: int) -> None:
    """Write the files of a logged model, and that it is the outcome of its run. It has no weights of its own: its few
    hundred bytes lead to those among the files of the run."""
    import torch
    from mlflow.models import Model as Description

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        data.mkdir()
        torch.save(RunModel(run_id), data / "model.pth")
        (data / "pickle_module_info.txt").write_text("pickle")
        description = Description(run_id=run_id, model_id=model_id)
        description.add_flavor("pytorch", model_data="data", pytorch_version=str(torch.__version__), code=None)
        description.save(Path(folder, "MLmodel"))
        client.log_model_artifacts(model_id, folder)
    try:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step)])
    except MlflowException:
        outputs = client.get_run(run_id).outputs
        if not (outputs and outputs.model_outputs):  # Else it is there already, where an answer was lost.
            raise
    client.finalize_logged_model(model_id, LoggedModelStatus.READY)


class RunModel:
    """What is pickled in place of the model of a run: unpickled, it is that model."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return load_run_model, (self.run_id,)


def load_run_model(run_id: str) -> "Model":
    """The model of a run in the tracking store that MLflow is set to."""
    import mlflow

    from cplearn.model import load_folder

    return load_folder(Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=MODEL_FOLDER)))
