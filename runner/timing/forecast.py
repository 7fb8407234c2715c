"""How long the missing trials of a sweep take on so many slots, and what they leave on disk."""

import functools
import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from cplearn.config.groups import KEPT_COMPONENTS
from cplearn.errors import InputError
from cplearn.model import Model
from runner.machine.resources import Resources
from runner.planning import budget
from runner.planning.plan import Job, Plan
from runner.planning.quantities import Interval, last_end, size
from runner.timing.timings import Calibration, TimedTrial, Timing, TimingKey, timed_trials, timing_key, timing_of
from sweeps.record import DatasetUse

START = 8.0
"""Seconds until the first trial of a sweep trains: start of Ray and of its workers, measured on two CPU cores."""

QUICK, CAREFUL = 6.0, 60.0  # Seconds in which all kinds of trials together are timed.


@dataclass(frozen=True)
class Machine:
    """Where trials run: what each is given, how many run at once, the tags of the hardware by which finished runs are
    chosen, and the bytes of this machine's memory (None: they run on a cluster, whose nodes cannot be looked into)."""

    resources: Resources
    slots: int
    hardware: Mapping[str, str]
    memory: float | None = None

    @property
    def devices(self) -> tuple[str, float]:
        """What a trial occupies: GPUs where it has any, else CPU cores."""
        asked = self.resources
        return ("GPU", asked.gpus) if asked.gpus else ("CPU core", asked.cpus * asked.processes)


@dataclass(frozen=True)
class Forecast:
    """The missing jobs in the order in which they would run, and what is known of their time and size.

    `keys` are the kinds of the jobs, by the jobs' keys; `reached` are epochs that need no training any more. `reason`
    says why some times are unknown. With `budgeted`, jobs come in the order of a budget.
    """

    plan: Plan
    machine: Machine
    jobs: list[Job]
    keys: Mapping[str, TimingKey]
    disk: int
    reached: Mapping[str, int]
    budgeted: bool
    timings: Mapping[TimingKey, Timing] = field(default_factory=dict)
    reason: str = ""

    def seconds(self, job: Job) -> Interval | None:
        """Expected seconds of a job; None if unknown."""
        timing = self.timings.get(self.keys[job.key])
        return timing.seconds(job.trial.epochs - self.reached.get(job.key, 0)) if timing else None

    @property
    def unknown(self) -> int:
        """How many jobs are of unknown time; they are in no sum."""
        return sum(self.seconds(job) is None for job in self.jobs)

    @property
    def wall(self) -> Interval:
        """Seconds from start to end on the slots, each of which takes the next job whenever it is free."""
        return self._total(lambda seconds: last_end([START] * self.machine.slots, seconds))

    @property
    def busy(self) -> Interval:
        """Seconds of all jobs together."""
        return self._total(sum)

    @property
    def device_hours(self) -> tuple[str, Interval | None]:
        """What trials occupy and for how many hours together; None where the time of no job is known."""
        unit, each = self.machine.devices
        known = self.unknown < len(self.jobs)
        return unit, Interval(*(seconds * each / 3600 for seconds in self.busy)) if known else None

    def _total(self, total: Callable[[Sequence[float]], float]) -> Interval:
        """What `total` makes of the low, middle and high seconds of all jobs of known time; zeros if there are none."""
        known = [seconds for job in self.jobs if (seconds := self.seconds(job))]
        return Interval(*map(total, zip(*known, strict=True))) if known else Interval(0, 0, 0)

    def within(self, seconds: float) -> list[Job]:
        """The jobs that end within so many seconds, each in its middle time; a shorter one may follow one too long."""
        ends = [START] * self.machine.slots
        done: list[Job] = []
        for job in self.jobs:
            needed = self.seconds(job)
            if needed and ends[0] + needed.middle <= seconds:
                heapq.heapreplace(ends, ends[0] + needed.middle)
                done.append(job)
        return done

    def start_calibration(
        self, data_root: Path | None, done: "Callable[[Forecast], None]", *, careful: bool = False
    ) -> Calibration | None:
        """Time a few steps of the unknown kinds, the most frequent first, in the background, and call `done` with the
        forecast that follows; `careful` takes longer, also times kinds that only similar runs tell of, and does so for
        a cluster too. None, and no call, where there is nothing to be timed."""
        sure = {key for key, timing in self.timings.items() if not careful or timing.source == "finished runs"}
        counts = Counter(self.keys[job.key] for job in self.jobs)
        examples = {self.keys[job.key]: job for job in self.jobs}
        jobs = [examples[key] for key, _ in counts.most_common() if key not in sure]
        if not jobs or (self.machine.memory is None and not careful):
            return None

        def tell(measured: Mapping[TimingKey, Timing], reason: str) -> None:
            """Kinds that have not been measured are scaled from those that have."""
            trials = []
            for key, timing in measured.items():
                data = self.plan.use_of(examples[key]).profile()
                trials.append(TimedTrial(key, examples[key].trial, data, timing.epoch, timing.evaluation))
            timings = {**self.timings, **measured}
            for job in jobs:
                key = self.keys[job.key]
                if key not in timings and (scaled := timing_of(job, self.plan.use_of(job), trials)):
                    timings[key] = scaled
            done(self._with(timings, reason))

        return Calibration(jobs, self.machine.hardware, data_root, CAREFUL if careful else QUICK, tell)

    def calibrated(self, data_root: Path | None, *, careful: bool = False) -> "Forecast":
        """This forecast with what `start_calibration` adds to it, once it is known."""
        answers = [self]
        if calibration := self.start_calibration(data_root, answers.append, careful=careful):
            try:
                calibration.join()
            finally:
                calibration.stop()
        return answers[-1]

    def _with(self, timings: Mapping[TimingKey, Timing], reason: str = "") -> "Forecast":
        """This forecast with other timings, and so with its jobs in another order if there is a budget."""
        forecast, sweep = replace(self, timings=timings, reason=reason), self.plan.sweep
        if not self.budgeted:
            return forecast
        seconds = {job.key: interval.middle for job in self.jobs if (interval := forecast.seconds(job))}
        return replace(forecast, jobs=budget.order(self.jobs, sweep.seeds, sweep.axes, seconds))

    def __str__(self) -> str:
        """One line: `Expected: 12 min 05 s (10 min 00 s to 15 min 20 s) on 2 slots, about 33 MB on disk.`"""
        unknown, stored = self.unknown, f"about {size(self.disk)} on disk"
        reason = self.reason or "no finished run is like it, and the nodes of a cluster cannot be timed from here"
        if unknown == len(self.jobs):
            return f"Expected: unknown time ({reason}), {stored}."
        slots = f"{self.machine.slots} slot{'s' if self.machine.slots > 1 else ''}"
        missing = f"; {unknown} of {len(self.jobs)} trials are of unknown time and not counted ({reason})"
        return f"Expected: {self.wall} on {slots}, {stored}{missing if unknown else ''}."


def forecast(
    plan: Plan,
    jobs: Sequence[Job],
    machine: Machine,
    history: Callable[[str, str | None], Sequence[Mapping[str, Any]]],
    *,
    reached: Mapping[str, int] | None = None,
    budgeted: bool = False,
) -> Forecast:
    """What finished runs say about these jobs: runs of the same kind, else similar ones. `history` gives the records of
    those of a method, on the data of a fingerprint or on any (`reports.store.timed_runs`).

    Raises InputError if the model of one of them cannot exist in the machine's memory.
    """
    keys = {job.key: timing_key(job) for job in jobs}

    @functools.cache
    def timed(method: str, fingerprint: str | None) -> list[TimedTrial]:
        return timed_trials(history(method, fingerprint), machine.hardware)

    timings: dict[TimingKey, Timing] = {}
    for key, job in {keys[job.key]: job for job in jobs}.items():
        method, use = job.trial.method.name, plan.use_of(job)
        if timing := timing_of(job, use, timed(method, job.fingerprint)) or timing_of(job, use, timed(method, None)):
            timings[key] = timing
    alike = {(keys[job.key], job.trial.epochs): job for job in reversed(jobs)}
    sizes = {kind: run_bytes(job, plan.use_of(job), machine.memory) for kind, job in alike.items()}
    disk = sum(sizes[keys[job.key], job.trial.epochs] for job in jobs)
    return Forecast(plan, machine, list(jobs), keys, disk, reached or {}, budgeted)._with(timings)


def run_bytes(job: Job, use: DatasetUse, memory: float | None) -> int:
    """Bytes that one finished run leaves: its model, diagnostics, and rows in the store.

    Raises InputError if its model cannot exist in the `memory` of the machine, where that is known.
    """
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
    # Measured on a store of 10,000 runs with five metrics an epoch; the six of `watch_images` on 2,000 epochs.
    watched = 1_600 // job.trial.evaluation.watch_every if job.trial.evaluation.watch_images else 0
    rows = 22_500 + (1_400 + watched) * job.trial.epochs
    whole = weights + diagnostics + arrays + rows + 4_000
    if memory is not None and whole > memory:
        raise InputError(
            f"the model of {job.dataset} {job.name} alone takes {size(whole)}, this machine has {size(memory)}"
        )
    return whole
