"""Trains trials of written tables anew, in a process like a sweep's worker: nothing in the store is replaced."""

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cplearn.data
from cplearn.config.trial import NUMERICS, TrialSettings
from reports import store
from reports.provenance.retraining import Agreement, Drawn, compare, draw
from runner.machine.environment import in_worker
from runner.tracking.trial_run import code_tags
from sweeps.errors import UserError
from sweeps.record import PARAMS, Tag, param_value
from sweeps.settings import nested

FOLDER = "retrained"
ALIKE = (Tag.DEVICE, Tag.DEVICE_NAME, Tag.THREADS)
"""The tags of the hardware in which two runs must agree for equal numbers."""


@dataclass(frozen=True)
class Retrained:
    """A trial that was trained anew: whether on the same kind of machine with the same libraries, and the outcome."""

    trial: Drawn
    same_machine: bool
    agreement: Agreement
    written: Path

    def __str__(self) -> str:
        shown, trial = self.agreement, self.trial
        machine = "the same kind of machine" if self.same_machine else "another kind of machine, or other libraries"
        how = f"all {shown.compared} metrics equal bit for bit"
        if not shown.bitwise:
            how = f"{shown.metric} {shown.old:.6g} before, {shown.new:.6g} now ({shown.difference:.2g} apart)"
        return f"{trial.where}, seed {trial.seed} (run {trial.run_id}): {how}, on {machine}"


def retrain(uri: str, path: Path, count: int, seed: int | None = None, root: Path | None = None) -> Iterator[Retrained]:
    """Train randomly drawn trials of the tables under a path again, and write the numbers of each to
    retrained/<key>.json there. `seed` fixes the draw.

    Raises UserError or InputError where the tables, a run's settings or its data cannot be used.
    """
    for trial in draw(path, count, random.Random(seed)):
        record = store.read_run(uri, trial.run_id)
        settings = {
            name.removeprefix(PARAMS): param_value(text) for name, text in record.items() if name.startswith(PARAMS)
        }
        threads, device = (record.get(tag.column) for tag in (Tag.THREADS, Tag.DEVICE))
        how = (int(threads or 1), device or "cpu", root)
        metrics, hardware = in_worker(_train, nested(settings), record["fingerprint"], *how)
        agreement = compare({name: v for name, v in record.items() if isinstance(v, float)}, metrics, trial.metrics)
        written = (path if path.is_dir() else path.parent) / FOLDER / f"{trial.key}.json"
        written.parent.mkdir(parents=True, exist_ok=True)
        content = {"trial": asdict(trial), "metrics": metrics, "hardware": hardware, "agreement": asdict(agreement)}
        written.write_text(json.dumps(content, indent=1) + "\n")
        same_code = all(record.get(tag.column) == code_tags()[tag] for tag in (Tag.VERSIONS, Tag.NUMERICS))
        same_device = all(record.get(tag.column) == hardware.get(tag.short) for tag in ALIKE)
        alone = record.get(Tag.RANKS.column) in (None, "1")
        yield Retrained(trial, same_code and same_device and alone, agreement, written)


def _train(
    settings: dict[str, Any], fingerprint: str, threads: int, device: str, root: Path | None
) -> tuple[dict[str, float], dict[str, str]]:
    """The metrics of a trial that is trained from the beginning, and the hardware it ran on; on the CPU where the
    device is not to be had."""
    import torch

    from cplearn import training
    from runner.machine.resources import describe

    torch.set_num_threads(threads)
    trial = TrialSettings.read(settings)
    data = cplearn.data.load(**trial.data_request(), root=root)
    if data.fingerprint != fingerprint:
        raise UserError(f"{trial.dataset}: its images are not those of the run (fingerprint {data.fingerprint})")
    device = device if device.startswith("cuda") and torch.cuda.is_available() else "cpu"
    outcome = training.train(trial, data, device=device, data_root=root)
    if outcome.failure:
        raise UserError(f"trained again, the trial has failed: {outcome.failure} (numerics {NUMERICS})")
    return outcome.metrics, describe(device)
