"""Has a few steps of each kind of trial timed on this machine, in a process with the environment of a worker.

The process is a command of its own (`runner.timing.timed_steps`): it runs beside its parent, leaves no threads, memory
or random state behind, and does not import the caller's main module again, as multiprocessing would.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.machine.environment import WORKER_ENVIRONMENT
from runner.planning.plan import Job
from runner.timing.timings import Timing, TimingKey

QUICK, CAREFUL = 6.0, 60.0
"""Seconds for all kinds of trials together."""

STARTING = 30.0
"""Seconds that the process may take beyond those, to start and to end a step that has begun."""


@dataclass(frozen=True)
class Calibrated:
    """Timings by kind, and a clause that says why some kind has none; empty where all have one."""

    timings: Mapping[TimingKey, Timing]
    reason: str = ""


class Calibration:
    """A calibration at work in the background; see `start_calibration`."""

    def __init__(self, request: Mapping[str, Any], done: Callable[[Calibrated], None] | None) -> None:
        self.request, self.done = request, done
        self.answer, self.stopped = Calibrated({}), False
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "runner.timing.timed_steps"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **WORKER_ENVIRONMENT},
            start_new_session=True,  # An interrupt from the keyboard does not reach it.
        )
        self.thread = threading.Thread(target=self._collect, daemon=True)
        self.thread.start()

    def result(self) -> Calibrated:
        """What was measured, once it is; an interrupt stops the calibration."""
        try:
            self.thread.join()
        except KeyboardInterrupt:
            self.stop()
            raise
        return self.answer

    def stop(self) -> None:
        """End the process at once; `done` is not called any more."""
        self.stopped = True
        self.process.kill()

    def _collect(self) -> None:
        try:
            output, _ = self.process.communicate(pickle.dumps(self.request), self.request["seconds"] + STARTING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            output, _ = self.process.communicate()
        answers: dict[TimingKey, Timing | str] = {}
        stream = io.BytesIO(output)
        with contextlib.suppress(EOFError, pickle.UnpicklingError):  # A killed process may leave half an answer.
            while True:
                answers.update([pickle.load(stream)])
        timings = {key: answer for key, answer in answers.items() if isinstance(answer, Timing)}
        reasons = [answer for answer in answers.values() if isinstance(answer, str)]
        if len(answers) < len(self.request["jobs"]):
            reasons.append(self._missing())
        self.answer = Calibrated(timings, next(iter(reasons), ""))
        if self.done and not self.stopped:
            self.done(self.answer)

    def _missing(self) -> str:
        """Why there are too few answers."""
        if self.process.returncode == -signal.SIGKILL:
            return "its steps take too long to be timed, or memory is short"
        if self.process.returncode:
            return f"the process that times a few steps ended with status {self.process.returncode}"
        return f"not all kinds can be timed in {self.request['seconds']:g} s"


def start_calibration(
    jobs: Sequence[Job],
    hardware: Mapping[str, str],
    data_root: Path | None,
    seconds: float = QUICK,
    done: Callable[[Calibrated], None] | None = None,
) -> Calibration:
    """Have these jobs, one of each kind, timed in the background: at least the first, the others until so many
    `seconds` have passed.

    `hardware` are the tags of `runner.machine.resources.hardware`. Of trials of several ranks, the steps are timed in
    one process and divided by the number of ranks. A thread of this process calls `done` with the result.
    """
    return Calibration(
        {"jobs": list(jobs), "hardware": dict(hardware), "data_root": data_root, "seconds": seconds}, done
    )
