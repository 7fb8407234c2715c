"""What a trial is given to run on, how many run at once, and what that is in the words that runs are tagged with.

Needs neither torch nor Ray until asked for.
"""

import dataclasses
import functools
import math
import os
import platform
import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cplearn.errors import InputError


@dataclass(frozen=True)
class Resources:
    """What a trial is given: `cpus` (also its number of threads) and `gpus`, which may be a fraction of one.

    None for `gpus` means one if there is any, else none. With several GPUs a trial has as many processes, which
    share its batches; without GPUs it has `ranks` of them. Each process has `cpus` CPUs.
    """

    cpus: float = 1
    gpus: float | None = None
    ranks: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.cpus < math.inf:
            raise InputError(f"CPUs per trial must be at least 1, not {self.cpus:g}")
        fits = self.gpus is None or 0 <= self.gpus <= 1 or (1 < self.gpus < math.inf and self.gpus == int(self.gpus))
        if not fits:
            raise InputError(f"GPUs per trial must be a fraction of one or a whole number, not {self.gpus:g}")
        if self.ranks < 1:
            raise InputError(f"ranks of a trial must be at least 1, not {self.ranks}")
        if self.ranks > 1 and self.gpus and self.gpus != self.ranks:
            raise InputError(
                f"a trial with {self.gpus:g} GPUs has a process for each, not {self.ranks}; leave the ranks out"
            )

    @property
    def processes(self) -> int:
        """Processes that train one trial together."""
        return max(self.ranks, int(self.gpus or 0))

    @property
    def each(self) -> dict[str, float]:
        """CPUs and GPUs of one process, as Ray spells them, once `gpus` is settled."""
        bundle: dict[str, float] = {"CPU": self.cpus}
        return bundle | ({"GPU": self.gpus / self.processes} if self.gpus else {})

    def settle(self, any_gpu: bool) -> Self:
        """These resources with a number of GPUs."""
        gpus = self.gpus if self.gpus is not None else float(self.ranks) if any_gpu else 0.0
        return dataclasses.replace(self, gpus=gpus)

    def slots(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """How many trials run at once on nodes that have so many `CPU` and `GPU`, once `gpus` is settled.

        Raises InputError if they cannot hold one trial.
        """
        processes = sum(int(min(node.get(kind, 0) / need for kind, need in self.each.items()) + 1e-6) for node in nodes)
        if processes < self.processes:
            have = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise InputError(f"a trial asks for {self}, but the nodes have {have}; ask for less")
        return processes // self.processes

    def __str__(self) -> str:
        processes = f" in {self.processes} processes" if self.processes > 1 else ""
        return f"{self.cpus * self.processes:g} CPUs and {self.gpus or 0:g} GPUs{processes}"


def local(resources: Resources) -> tuple[Resources, int]:
    """`resources` with the number of GPUs settled, and the slots of this machine: how many trials run at once.

    Raises InputError if the machine cannot hold one trial.
    """
    import torch

    devices = torch.cuda.device_count()
    resources = resources.settle(devices > 0)
    return resources, resources.slots([{"CPU": usable_cpus(), "GPU": devices}])


def usable_cpus() -> int:
    """CPUs that this process may use: by its affinity or by the quota of its container, whichever is less."""
    import joblib

    return int(joblib.cpu_count())


def hardware(resources: Resources, remote: bool) -> dict[str, str]:
    """The tags by which finished runs are known to have run on the like; of a remote cluster less is known."""
    import torch

    device = "cuda" if resources.gpus and (remote or torch.cuda.is_available()) else "cpu"
    threads = {"device": device, "threads": str(max(1, int(resources.cpus))), "ranks": str(resources.processes)}
    return threads if remote else threads | {"device_name": describe(device)["device_name"]}


def describe(device: str, ranks: int = 1) -> dict[str, str]:
    """Tags of a process that trains on `device`, cpu or cuda: its name, host, CPUs and torch's threads here, and how
    many such processes share a trial."""
    import torch

    return {
        "device": device,
        "device_name": torch.cuda.get_device_name() if device == "cuda" else cpu(),
        "host": socket.gethostname(),
        "cpus": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "ranks": str(ranks),
    }


@functools.cache
def bfloat16() -> str:
    """What this processor computes products of bfloat16 numbers with, AMX or AVX-512 BF16; empty if with nothing."""
    with suppress(OSError):
        return bfloat16_unit(Path("/proc/cpuinfo").read_text())
    return ""


def bfloat16_unit(cpuinfo: str) -> str:
    """The same, from what Linux says of a processor.

    >>> bfloat16_unit("flags : fpu avx512_bf16 amx_bf16"), bfloat16_unit("flags : fpu avx2")
    ('AMX', '')
    """
    flags = set(cpuinfo.split())
    return "AMX" if "amx_bf16" in flags else "AVX-512 BF16" if "avx512_bf16" in flags else ""


@functools.cache
def cpu() -> str:
    """The processor's model, `AMD EPYC 7763` for instance; where the system does not say, its architecture."""
    with suppress(OSError):
        if model := re.search(r"^model name\s*: (.+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return model[1].strip()
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return platform.processor() or platform.machine()
