"""CPLearn and the methods it is compared with: training, evaluation and trained models.

`cplearn.load` turns a finished run into a working model; importing this package alone does not import torch.
"""

from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cplearn.model import Model

__all__ = ["load"]


def load(run: str | Path) -> "Model":
    """The trained model of a run, in evaluation mode on the CPU.

    `run` is a folder that holds a model, or a run id of the tracking store. The latter is looked up through the entry
    points `cplearn.artifacts`, so that this package depends on no tracker.

    Raises cplearn.errors.InputError if there is no such run or folder.
    """
    from cplearn.errors import InputError
    from cplearn.model import load_folder

    if Path(run).is_dir():
        return load_folder(Path(run))
    reasons = []
    for entry in entry_points(group="cplearn.artifacts"):
        try:
            return load_folder(Path(entry.load()(str(run))))
        except LookupError as error:
            reasons.append(str(error.args[0] if error.args else error))
    raise InputError(f"{run}: neither a folder with a model nor a known run" + "".join(f"; {r}" for r in reasons))
