"""What trials run on, in the words that runs are tagged with."""

from __future__ import annotations

import functools
import os
import platform
import socket
import subprocess
from pathlib import Path


@functools.cache
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
def cpu() -> str:
    """The processor's model, `AMD EPYC 7763` for instance; where the system does not say, its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    try:
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        model = done.stdout.strip() if done.returncode == 0 else ""
    except (OSError, subprocess.TimeoutExpired):
        model = ""
    return model or platform.processor() or platform.machine()
