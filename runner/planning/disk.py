"""How many bytes finished runs leave: their models, laid out without memory, diagnostics, and rows in the store."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from cplearn.config.groups import KEPT_COMPONENTS
from cplearn.errors import InputError
from runner.planning.plan import Job, Plan
from runner.planning.quantities import size
from sweeps.record import DatasetUse


def stored_bytes(plan: Plan, jobs: Sequence[Job], kinds: Mapping[str, Hashable], memory: float | None) -> int:
    """Bytes that the runs of these jobs leave; `kinds` says by a job's key which are alike but for their epochs.

    Raises InputError if the model of one of them cannot exist in the `memory` of the machine, where that is known.
    """
    whole, sizes = 0, dict[Hashable, int]()
    for job in jobs:
        kind = (kinds[job.key], job.trial.epochs)
        if kind not in sizes:
            sizes[kind] = run_bytes(job, plan.use_of(job))
        if memory is not None and sizes[kind] > memory:
            raise InputError(
                f"the model of {job.dataset} {job.name} alone takes {size(sizes[kind])}, "
                f"this machine has {size(memory)}"
            )
        whole += sizes[kind]
    return whole


def run_bytes(job: Job, use: DatasetUse) -> int:
    """Bytes that one finished run leaves.

    Raises InputError if its model is too large to be laid out.
    """
    import torch

    from cplearn.model import Model

    images = {"channels": use.channels, "image_size": use.image_size, "mean": 0.5, "std": 0.5, "classes": [""] * 10}
    settings = job.trial.flat()
    try:
        with torch.device("meta"):
            model = Model(job.trial, images)
    except (RuntimeError, OverflowError, TypeError):
        large = [f"{key} {value}" for key, value in settings.items() if isinstance(value, int) and value > 10**6]
        raise InputError(f"a model with {' and '.join(large) or 'these settings'} is too large to lay out") from None
    weights = sum(tensor.nbytes + 400 for tensor in model.state_dict().values())
    diagnostics = 20 * (model.method.n_codes + model.backbone.features)
    # Vectors of the kept test images in half precision; labels and codes of all of them, which compress well.
    kept = min(job.trial.evaluation.kept_images, use.test_images)
    vector = min(KEPT_COMPONENTS, model.backbone.features) + settings.get("method.embedding_dim", 0)
    arrays = 2 * kept * vector + 3 * use.test_images + 3_000
    # Measured on a store of 10,000 runs with five metrics an epoch.
    rows = 22_500 + 1_400 * job.trial.epochs
    return weights + diagnostics + arrays + rows + 4_000
