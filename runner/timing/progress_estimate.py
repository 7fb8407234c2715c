"""How much time a running sweep still needs: what was expected of its trials, corrected by the pace they have shown."""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runner.planning.plan import Job
from runner.timing.timings import Timing, TimingKey, timing_key

_Paces = dict[TimingKey | None, float]
"""Seconds that have passed for each that was expected, by kind and of all (None)."""


@dataclass
class _State:
    """A trial on its way: when it began and was last heard of by the clock, the epochs that an earlier run has trained
    (`skipped`) and those that this one has (`trained`)."""

    key: TimingKey
    epochs: int
    begun: float | None = None
    heard: float = 0.0
    skipped: int = 0
    trained: int = 0
    finished: bool = False
    ended: bool = False


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
        """Mean seconds of an epoch, or an evaluation, of the trials with a timing: what others are taken to need."""
        self.paces: _Paces | None = None  # Unknown after an event.

    def planned(self, jobs: Sequence[Job]) -> None:
        """Trials that are to run; one that is planned again starts anew."""
        for job in jobs:
            self.running.pop(job.key, None)
            self.states[job.key] = _State(timing_key(job), job.trial.epochs)
        self.learn({})

    def learn(self, timings: Mapping[TimingKey, Timing]) -> None:
        """Take up timings that have become known since."""
        self.timings |= timings
        timed = [state for state in self.states.values() if state.key in self.timings]
        self.unit = statistics.fmean(self._work(state)[1] / (state.epochs + 1) for state in timed) if timed else None
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
        if not (paces := self._measure()):
            return None
        is_free = len(self.running) < self.slots
        wait = 0.0 if is_free else min(self._left(state, paces) for state in self.running.values())
        return wait + self._left(self.states[job.key], paces)

    def remaining(self, left: int = 0) -> float | None:
        """Seconds until the last trial ends, on slots that take the next one when they are free; None if unknown. Of
        the `left` trials that have not ended some may not be planned yet: these take as long as the others do."""
        if not (paces := self._measure()):
            return None
        # Copies, since the display asks from a thread of its own.
        ends = [self._left(state, paces) for state in list(self.running.values())]
        ends += [0.0] * (self.slots - len(ends))
        heapq.heapify(ends)
        states = list(self.states.values())
        waits = [self._left(state, paces) for state in states if state.begun is None and not state.ended]
        unplanned = left - sum(not state.ended for state in states)
        usual = statistics.fmean(paces.get(state.key, paces[None]) * self._work(state)[1] for state in states)
        for seconds in (*waits, *[usual] * unplanned):
            heapq.heapreplace(ends, ends[0] + seconds)
        return max(ends)

    def _work(self, state: _State) -> tuple[float, float]:
        """Expected seconds of what is done of a trial, and of all of it."""
        timing, epochs, unit = self.timings.get(state.key), state.epochs - state.skipped, self.unit or 1.0
        whole = timing.seconds(epochs) if timing else (epochs + 1) * unit
        return whole if state.finished else state.trained * (timing.epoch if timing else unit), whole

    def _left(self, state: _State, paces: _Paces) -> float:
        """Seconds that a trial still needs."""
        done, whole = self._work(state)
        left = paces.get(state.key, paces[None]) * (whole - done)
        return left if state.begun is None else max(0.0, left - (self.clock() - state.heard))

    def _measure(self) -> _Paces:
        """The paces; empty as long as nothing is known."""
        if (paces := self.paces) is not None:
            return paces
        # What was expected weighs as much as one trial that kept to it.
        states = list(self.states.values())
        weight = statistics.fmean(self._work(state)[1] for state in states) if self.unit else 0.0
        sums: dict[TimingKey | None, tuple[float, float]] = {None: (weight, weight)}
        for state in states:
            done, _ = self._work(state)
            if state.begun is not None and done:
                for kind in (None, state.key) if state.finished else (None,):
                    passed, expected = sums.get(kind, (0.0, 0.0))
                    sums[kind] = (passed + state.heard - state.begun, expected + done)
        self.paces = paces = {kind: passed / expected for kind, (passed, expected) in sums.items() if expected}
        return paces
