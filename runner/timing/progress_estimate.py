"""How much time a running sweep still needs: what was expected of its trials, corrected by what they have shown."""

from __future__ import annotations

import heapq
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from runner.planning.plan import Job
from runner.timing.forecast import START, Interval
from runner.timing.timings import Timing, TimingKey, timing_key

UNKNOWN, STEADY = 2.0, 1.2
"""Factors by which a trial's time may be off where its kind has no timing, and where many epochs of it have been seen:
machines are shared, and the last trial has one for itself."""

RECENT = 40
"""Epochs whose mean counts, roughly: on a machine that slows down the first ones say little about the next ones."""


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
    ended: bool = False

    @property
    def epochs_left(self) -> int:
        return max(0, self.epochs - self.skipped - self.trained)


@dataclass
class _Seen:
    """Seconds that so many epochs, or evaluations, have taken. Of epochs, the first one of a trial comes with the
    loading of its data, so these count (`rough`) only until another is seen."""

    seconds: float = 0.0
    count: float = 0.0
    rough: bool = False

    def add(self, seconds: float, count: int, rough: bool = False) -> None:
        if self.rough and not rough:
            self.seconds, self.count, self.rough = 0.0, 0.0, False
        if not rough or self.rough or not self.count:
            kept = min(1.0, RECENT / max(self.count, 1))
            self.seconds, self.count, self.rough = kept * self.seconds + seconds, kept * self.count + count, rough


@dataclass(frozen=True)
class _Part:
    """Seconds of an epoch or of an evaluation, and the factors by which most are off."""

    seconds: float
    low: float
    high: float


_Kinds = Mapping[TimingKey, tuple[_Part, _Part]]
"""Epoch and evaluation of each kind of trial."""


class ProgressEstimate:
    """Follows trials and says how long the sweep still takes.

    Epochs and evaluations are followed apart. Those of a kind of trial take the mean of what they have taken so far,
    with what finished runs have taken as one more; those of a kind that has not been seen take what its timing says,
    times the pace of the others. Without any timing an evaluation is taken to be as long as an epoch. The range is that
    of the timing, narrower with each epoch or evaluation that was seen.
    """

    def __init__(
        self, timings: Mapping[TimingKey, Timing], slots: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.timings, self.slots, self.clock = dict(timings), slots, clock
        self.states: dict[str, _State] = {}
        self.keys: set[TimingKey] = set()
        self.running: dict[str, _State] = {}
        self.epochs: dict[TimingKey, _Seen] = defaultdict(_Seen)
        self.evaluations: dict[TimingKey, _Seen] = defaultdict(_Seen)
        self.has_begun, self.planned_at = False, 0.0

    def planned(self, jobs: Sequence[Job]) -> None:
        """Trials that are to run; one that is planned again starts anew."""
        self.planned_at = self.clock()
        for job in jobs:
            if self.running.pop(job.key, None):
                self.has_begun = False  # After an interruption all workers start anew.
            self.states[job.key] = state = _State(timing_key(job), job.trial.epochs)
            self.keys.add(state.key)

    def learn(self, timings: Mapping[TimingKey, Timing]) -> None:
        """Take up timings that have become known since."""
        self.timings |= timings

    def started(self, job: Job) -> None:
        state = self.states[job.key]
        if state.begun is None:
            state.begun = state.heard = self.clock()
            self.has_begun = True
        self.running[job.key] = state
        self.slots = max(self.slots, len(self.running))

    def resumed(self, job: Job, epoch: int) -> None:
        """The trial goes on after an epoch that an earlier run has reached."""
        state = self.states[job.key]
        state.skipped = state.skipped or epoch

    def epoch(self, job: Job, epoch: int) -> None:
        state = self.states[job.key]
        before, state.trained = state.trained, max(0, epoch - state.skipped)
        if state.trained > before:
            self.epochs[state.key].add(self.clock() - state.heard, state.trained - before, rough=not before)
        state.heard = self.clock()

    def ended(self, job: Job, *, failed: bool = False) -> None:
        state = self.states[job.key]
        self.running.pop(job.key, None)
        if not failed and state.begun is not None and not state.epochs_left:
            self.evaluations[state.key].add(self.clock() - state.heard, 1)
        state.ended = True

    def ends_in(self, job: Job) -> float | None:
        """Seconds until a trial would end if it took the next free slot; None as long as nothing is known."""
        if not (kinds := self._kinds()):
            return None
        ends = [self._left(state, kinds).middle for state in self.running.values()]
        return (min(ends) if len(ends) >= self.slots else 0.0) + self._left(self.states[job.key], kinds).middle

    def remaining(self, left: int = 0) -> Interval | None:
        """Seconds until the last trial ends, on slots that take the next one when they are free; None if unknown. Of
        the `left` trials that have not ended some may not be planned yet: these take as long as the others do."""
        if not (kinds := self._kinds()):
            return None
        # Copies, since the display asks from a thread of its own.
        states, running = list(self.states.values()), list(self.running.values())
        waiting = [state for state in states if state.begun is None and not state.ended]
        now = [self._left(state, kinds) for state in running]
        later = [self._left(state, kinds) for state in waiting]
        wholes = [_sum(kinds[state.key], state.epochs) for state in states]
        unplanned = max(0, left - sum(not state.ended for state in states))
        # Before the first trial begins, workers start.
        free = 0.0 if self.has_begun else max(0.0, START - (self.clock() - self.planned_at))

        def last_end(end: Callable[[Interval], float]) -> float:
            ends = [*map(end, now), *[free] * (self.slots - len(now))]
            heapq.heapify(ends)
            for seconds in (*map(end, later), *[statistics.fmean(map(end, wholes))] * unplanned):
                heapq.heapreplace(ends, ends[0] + seconds)
            return max(ends)

        return Interval(*(last_end(end) for end in (lambda i: i.low, lambda i: i.middle, lambda i: i.high)))

    def _left(self, state: _State, kinds: _Kinds) -> Interval:
        """Seconds that a trial still needs."""
        whole = _sum(kinds[state.key], state.epochs_left)
        if state.begun is None:
            return whole
        passed = self.clock() - state.heard
        return Interval(*(max(0.0, seconds - passed) for seconds in (whole.low, whole.middle, whole.high)))

    def _kinds(self) -> _Kinds:
        """What is known of each kind of trial; empty as long as nothing is."""
        timed = [self.timings[key] for key in self.keys if key in self.timings]
        if not timed and not any(seen.count for seen in (*self.epochs.values(), *self.evaluations.values())):
            return {}
        epoch, evaluation = (
            statistics.fmean(getattr(timing, part) for timing in timed) if timed else 1.0
            for part in ("epoch", "evaluation")
        )
        usual = Timing(epoch, evaluation, 1 / UNKNOWN, UNKNOWN, "similar runs", 0)
        said = {key: self.timings.get(key, usual) for key in self.keys}
        epoch_pace = _pace(self.epochs, {key: timing.epoch for key, timing in said.items()}, usual.epoch, bool(timed))
        pace = epoch_pace
        if any(seen.count for seen in self.evaluations.values()):
            evaluations = {key: timing.evaluation for key, timing in said.items()}
            pace = _pace(self.evaluations, evaluations, usual.evaluation, bool(timed))
        waited: dict[tuple[TimingKey, bool], float] = {}
        for state in list(self.running.values()):
            phase = (state.key, state.epochs_left > 0)
            waited[phase] = max(waited.get(phase, 0.0), self.clock() - state.heard)
        return {
            key: (
                _part(timing, timing.epoch * epoch_pace, self.epochs[key], waited.get((key, True), 0.0)),
                _part(timing, timing.evaluation * pace, self.evaluations[key], waited.get((key, False), 0.0)),
            )
            for key, timing in said.items()
        }


def _pace(seen: Mapping[TimingKey, _Seen], said: Mapping[TimingKey, float], usual: float, is_timed: bool) -> float:
    """Seconds that have passed for each that timings have said, of all kinds; what they say counts as one more."""
    weight = usual if is_timed else 0.0
    passed = weight + sum(seen.seconds for seen in seen.values())
    expected = weight + sum(seen.count * said[key] for key, seen in seen.items())
    return passed / expected if expected else 1.0


def _part(timing: Timing, expected: float, seen: _Seen, waited: float) -> _Part:
    """An epoch or evaluation: what was seen of it, or `expected`, but not less than what one has been `waited` for."""
    weight = 1 if timing.source == "finished runs" or not seen.count else 0
    seconds = (weight * expected + seen.seconds) / (weight + seen.count)
    low, high = 1 - (1 - timing.low) / (1 + seen.count), 1 + (timing.high - 1) / (1 + seen.count)
    return _Part(seconds if seen.count else max(seconds, waited), min(low, 1 / STEADY), max(high, STEADY))


def _sum(kind: tuple[_Part, _Part], epochs: int) -> Interval:
    """Seconds of so many epochs and the evaluation."""
    parts = [(epochs * kind[0].seconds, kind[0]), (kind[1].seconds, kind[1])]
    ends = ((seconds * part.low, seconds, seconds * part.high) for seconds, part in parts)
    return Interval(*map(sum, zip(*ends, strict=True)))
