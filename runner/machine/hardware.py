"""What trials run on, in the words that runs are tagged with."""

from __future__ import annotations

import functools
import os
import platform
import re
import socket
import subprocess
from contextlib import suppress
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
    with suppress(OSError):
        if model := re.search(r"^model name\s*: (.+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return model[1].strip()
    command = ["sysctl", "-n", "machdep.cpu.brand_string"]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return platform.processor() or platform.machine()
