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
        """What is expected of this run in seconds; without a timing every epoch, and the evaluation, takes a `unit`."""
        epochs = self.epochs - self.skipped
        return self.timing.seconds(epochs) if self.timing else (epochs + 1) * unit

    def share(self) -> float:
        """The part of the work that is done."""
        if self.finished:
            return 1.0
        # On small data an evaluation takes as long as an epoch.
        whole = self.work(1.0)
        return self.trained * (self.timing.epoch if self.timing else 1.0) / whole if whole else 0.0


class ProgressEstimate:
    """Follows trials and says how long the sweep still takes.

    Kinds of which a trial has finished take what those took; the others take what their timing says, times one factor
    for all: the pace so far. Without any timing the number of epochs stands for the work.
    """

    def __init__(
        self, timings: Mapping[TimingKey, Timing], slots: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.timings, self.slots, self.clock = dict(timings), slots, clock
        self.states: dict[str, _State] = {}
        self.running: dict[str, _State] = {}
        self.took: dict[tuple[TimingKey, int], tuple[int, float]] = {}
        """Of each kind, how many trials have finished from their first epoch on, and the sum of their seconds."""
        self.unit: float | None = None
        self.mean_work = 0.0
        self.pace: float | None = None
        """The factor, as long as no event changes it."""

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
        self.mean_work = statistics.fmean(state.work(self.unit or 1.0) for state in states) if states else 0.0
        self.pace = None

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
        self.pace = None

    def epoch(self, job: Job, epoch: int) -> None:
        state = self.states[job.key]
        state.trained, state.heard = max(0, epoch - state.skipped), self.clock()
        self.pace = None

    def ended(self, job: Job, *, failed: bool = False) -> None:
        state = self.states[job.key]
        self.running.pop(job.key, None)
        state.ended, state.heard = True, self.clock()
        state.finished = not failed and state.begun is not None
        if state.finished and state.begun is not None and not state.skipped:
            count, seconds = self.took.get((state.key, state.epochs), (0, 0.0))
            self.took[state.key, state.epochs] = (count + 1, seconds + state.heard - state.begun)
        self.pace = None

    def expected(self, job: Job) -> float | None:
        """Seconds that a trial takes from its start; None as long as nothing is known."""
        return self._expected(self.states[job.key])

    def ends_in(self, job: Job) -> float | None:
        """Seconds until a trial would end if it took the next free slot; None as long as nothing is known."""
        seconds = self.expected(job)
        if seconds is None or len(self.running) < self.slots:
            return seconds
        return seconds + min(self._left(state, self._expected(state) or 0.0) for state in self.running.values())

    def remaining(self) -> float | None:
        """Seconds until the last trial ends, on slots that take the next one when they are free; None if unknown."""
        ends, waiting = [], []
        for state in self.states.values():
            if state.ended:
                continue
            seconds = self._expected(state)
            if seconds is None:
                return None
            if state.begun is None:
                waiting.append(seconds)
            else:
                ends.append(self._left(state, seconds))
        ends += [0.0] * (self.slots - len(ends))
        heapq.heapify(ends)
        for seconds in waiting:
            heapq.heapreplace(ends, ends[0] + seconds)
        return max(ends, default=0.0)

    def _left(self, state: _State, whole: float) -> float:
        """Seconds that a running trial still needs of those that it takes as a whole."""
        return max(0.0, whole * (1 - state.share()) - (self.clock() - state.heard))

    def _expected(self, state: _State) -> float | None:
        if taken := self.took.get((state.key, state.epochs)):
            return taken[1] / taken[0]
        if self.pace is None:
            self.pace = self._pace()
        return None if self.pace is None else self.pace * state.work(self.unit or 1.0)

    def _pace(self) -> float | None:
        """Seconds that have passed for each that was expected; None where nothing was expected and none has passed."""
        passed = expected = 0.0
        for state in self.states.values():
            share = state.share()
            if state.begun is not None and share > 0:
                passed += state.heard - state.begun
                expected += share * state.work(self.unit or 1.0)
        if self.unit is None:
            return passed / expected if expected else None
        # What was expected weighs as much as one trial that kept to it.
        return (passed + self.mean_work) / (expected + self.mean_work) if self.mean_work else 1.0
