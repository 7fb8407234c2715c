"""What runs have cost: hours of CPUs and GPUs, from the times and the hardware that each run says of itself."""

import pandas as pd

from sweeps.record import WALL_SECONDS, Tag

UNITS = {"cpu": "CPU hours", "cuda": "GPU hours"}


def device_hours(runs: pd.DataFrame, seconds: str = WALL_SECONDS) -> dict[str, float]:
    """Hours of each kind of device over runs, those without a time (column `seconds`) or a device left out.

    A run on CPUs counts its seconds times its threads times its processes, one on GPUs its seconds times its processes,
    also where several trials have shared a GPU.

    >>> run = {"time/wall_s": 1800.0, "tags.device": "cpu", "tags.threads": "4", "tags.ranks": None}
    >>> device_hours(pd.DataFrame([run]))
    {'CPU hours': 2.0}
    """
    columns = [seconds, Tag.DEVICE.column, Tag.THREADS.column, Tag.RANKS.column]
    timed = runs.reindex(columns=columns).dropna(subset=columns[:2])
    device = timed[Tag.DEVICE.column].str.partition(":")[0] if len(timed) else timed[Tag.DEVICE.column]
    number = timed[columns[2:]].apply(pd.to_numeric, errors="coerce").fillna(1)
    threads = number[Tag.THREADS.column].where(device == "cpu", 1)
    hours = timed[seconds].astype(float) * threads * number[Tag.RANKS.column] / 3600
    return {unit: float(hours[device == kind].sum()) for kind, unit in UNITS.items() if (device == kind).any()}
