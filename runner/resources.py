"""What a trial is given to run on, and how many run at once. Needs neither torch nor Ray until asked for."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from cplearn.errors import InputError


@dataclass(frozen=True)
class Resources:
    """What a pack is given: `cpus` (also its number of threads) and `gpus`, which may be a fraction of one.

    None for `gpus` means one if there is any, else none.
    """

    cpus: float = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.cpus < math.inf:
            raise InputError(f"CPUs per trial must be at least 1, not {self.cpus:g}")
        fits = self.gpus is None or 0 <= self.gpus <= 1 or (1 < self.gpus < math.inf and self.gpus == int(self.gpus))
        if not fits:
            raise InputError(f"GPUs per trial must be a fraction of one or a whole number, not {self.gpus:g}")


def local(resources: Resources) -> tuple[Resources, int]:
    """`resources` with the number of GPUs settled, and the slots of this machine: how many packs run at once.

    Raises InputError if the machine cannot hold one pack.
    """
    import joblib
    import torch

    cpus, devices = joblib.cpu_count(), torch.cuda.device_count()
    gpus = resources.gpus
    if gpus is None:
        gpus = 1.0 if devices else 0.0
    slots = int(cpus / resources.cpus + 1e-6)
    if gpus:
        slots = min(slots, int(devices / gpus + 1e-6))
    if not slots:
        raise InputError(
            f"a trial asks for {resources.cpus:g} CPUs and {gpus:g} GPUs, but the nodes have {cpus} CPUs and "
            f"{devices} GPUs; ask for less"
        )
    return Resources(resources.cpus, gpus), slots


def local_memory(resources: Resources) -> float:
    """Bytes of a slot of this machine: its part of a GPU, or of the main memory by its part of the CPUs."""
    import joblib
    import torch

    if resources.gpus:
        seen = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
        return min(seen) * min(resources.gpus, 1)
    return memory() * resources.cpus / joblib.cpu_count()


def memory() -> float:
    """Bytes of main memory of this machine."""
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def hardware(resources: Resources, remote: bool) -> dict[str, str]:
    """The tags by which finished runs are known to have run on the like; of a remote cluster less is known."""
    import torch

    from runner.hardware import describe

    device = "cuda" if resources.gpus and (remote or torch.cuda.is_available()) else "cpu"
    threads = {"device": device, "threads": str(max(1, int(resources.cpus)))}
    return threads if remote else threads | {"device_name": describe(device)["device_name"]}
