"""How much time a running sweep still needs: what was expected of its trials, corrected by the pace they have shown."""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runner.planning.plan import Job
from runner.timing.timings import Timing, TimingKey, timing_key


@dataclass
class _State:
    """A trial on its way: when it began and was last heard of by the clock, the epochs that an earlier run has trained
    (`skipped`) and those that this one has (`trained`)."""

    key: TimingKey
    epochs: int
    timing: Timing | None = None
    begun: float | None = None
    heard: float = 0.0
    skipped: int = 0
    trained: int = 0
    finished: bool = False
    ended: bool = False

    def work(self, unit: float) -> float:
        """Seconds expected of this run; without a timing every epoch takes a `unit`, and so does the evaluation."""
        epochs = self.epochs - self.skipped
        return self.timing.seconds(epochs) if self.timing else (epochs + 1) * unit

    def share(self) -> float:
        """The part of the work that is done."""
        whole = self.work(1.0)
        done = self.trained * (self.timing.epoch if self.timing else 1.0)
        return 1.0 if self.finished else done / whole if whole else 0.0


class ProgressEstimate:
    """Follows trials and says how long the sweep still takes.

    A trial takes what its timing says, times the pace so far: of the finished trials of its kind, or where none has
    finished, of all trials. Without any timing the number of epochs stands for the work.
    """

    def __init__(
        self, timings: Mapping[TimingKey, Timing], slots: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.timings, self.slots, self.clock = dict(timings), slots, clock
        self.states: dict[str, _State] = {}
        self.running: dict[str, _State] = {}
        self.unit: float | None = None
        self.paces: dict[TimingKey | None, float] | None = None
        """Seconds that have passed for each that was expected, by kind and of all (None); unknown after an event."""

    def planned(self, jobs: Sequence[Job]) -> None:
        """Trials that are to run; one that is planned again starts anew."""
        for job in jobs:
            self.running.pop(job.key, None)
            self.states[job.key] = _State(timing_key(job), job.trial.epochs)
        self.learn({})

    def learn(self, timings: Mapping[TimingKey, Timing]) -> None:
        """Take up timings that have become known since."""
        self.timings |= timings
        states = list(self.states.values())
        for state in states:
            state.timing = self.timings.get(state.key)
        units = [state.work(0.0) / (state.epochs + 1) for state in states if state.timing]
        self.unit = statistics.fmean(units) if units else None
        self.paces = None

    def started(self, job: Job) -> None:
        state = self.states[job.key]
        if state.begun is None:
            state.begun = state.heard = self.clock()
        self.running[job.key] = state
        self.slots = max(self.slots, len(self.running))

    def resumed(self, job: Job, epoch: int) -> None:
        """The trial goes on after an epoch that an earlier run has reached."""
        state = self.states[job.key]
        state.skipped = state.skipped or epoch
        self.paces = None

    def epoch(self, job: Job, epoch: int) -> None:
        state = self.states[job.key]
        state.trained, state.heard = max(0, epoch - state.skipped), self.clock()
        self.paces = None

    def ended(self, job: Job, *, failed: bool = False) -> None:
        state = self.states[job.key]
        self.running.pop(job.key, None)
        state.ended, state.finished, state.heard = True, not failed and state.begun is not None, self.clock()
        self.paces = None

    def ends_in(self, job: Job) -> float | None:
        """Seconds until a trial would end if it took the next free slot; None as long as nothing is known."""
        seconds = self._expected(self.states[job.key])
        if seconds is None or len(self.running) < self.slots:
            return seconds
        return seconds + min(self._left(state) or 0.0 for state in self.running.values())

    def remaining(self) -> float | None:
        """Seconds until the last trial ends, on slots that take the next one when they are free; None if unknown."""
        # Copies, since the display asks from a thread of its own.
        running = [self._left(state) for state in list(self.running.values())]
        states = list(self.states.values())
        waiting = [self._expected(state) for state in states if state.begun is None and not state.ended]
        ends = [seconds for seconds in running if seconds is not None]
        if len(ends) < len(running) or None in waiting:
            return None
        ends += [0.0] * (self.slots - len(ends))
        heapq.heapify(ends)
        for seconds in waiting:
            heapq.heapreplace(ends, ends[0] + (seconds or 0.0))
        return max(ends, default=0.0)

    def _left(self, state: _State) -> float | None:
        """Seconds that a running trial still needs."""
        whole = self._expected(state)
        return None if whole is None else max(0.0, whole * (1 - state.share()) - (self.clock() - state.heard))

    def _expected(self, state: _State) -> float | None:
        if self.paces is None:
            self.paces = self._measure()
        pace = self.paces.get(state.key, self.paces.get(None))
        return None if pace is None else pace * state.work(self.unit or 1.0)

    def _measure(self) -> dict[TimingKey | None, float]:
        # What was expected weighs as much as one trial that kept to it.
        unit, states = self.unit or 1.0, list(self.states.values())
        weight = statistics.fmean(state.work(unit) for state in states) if self.unit else 0.0
        sums: dict[TimingKey | None, tuple[float, float]] = {None: (weight, weight)}
        for state in states:
            if state.begun is not None and (share := state.share()):
                for kind in (None, state.key) if state.finished else (None,):
                    passed, expected = sums.get(kind, (0.0, 0.0))
                    sums[kind] = (passed + state.heard - state.begun, expected + share * state.work(unit))
        return {kind: passed / expected for kind, (passed, expected) in sums.items() if expected}
