"""How much time a running sweep still needs: what was expected of its trials, corrected by what they have shown."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runner.planning.plan import Job
from runner.planning.quantities import Interval, last_end
from runner.timing.forecast import START
from runner.timing.timings import Timing, TimingKey, timing_key

UNKNOWN, STEADY = 2.0, 1.2
"""Factors by which a trial's time may be off where its kind has no timing, and where many epochs of it have been seen:
machines are shared, and the last trial has one for itself."""

RECENT = 40
"""Epochs whose mean counts, roughly: on a machine that slows down the first ones say little about the next ones."""

PHASES = ("epoch", "evaluation")  # The parts of a trial that are followed apart, as the fields of `Timing` are called.


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


_Kinds = Mapping[TimingKey, Sequence[np.ndarray]]
"""Low, middle and high seconds, [3], of an epoch and of the evaluation of each kind of trial."""


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
        self.seen: dict[tuple[TimingKey, str], _Seen] = defaultdict(_Seen)
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
            passed = self.clock() - state.heard
            self.seen[state.key, "epoch"].add(passed, state.trained - before, rough=not before)
        state.heard = self.clock()

    def ended(self, job: Job, *, failed: bool = False) -> None:
        state = self.states[job.key]
        self.running.pop(job.key, None)
        if not failed and state.begun is not None and not state.epochs_left:
            self.seen[state.key, "evaluation"].add(self.clock() - state.heard, 1)
        state.ended = True

    def ends_in(self, job: Job) -> float | None:
        """Seconds until a trial would end if it took the next free slot; None as long as nothing is known."""
        if not (kinds := self._kinds()):
            return None
        ends = [self._left(state, kinds)[1] for state in self.running.values()]
        return float((min(ends) if len(ends) >= self.slots else 0.0) + self._left(self.states[job.key], kinds)[1])

    def remaining(self, left: int = 0) -> Interval | None:
        """Seconds until the last trial ends, on slots that take the next one when they are free; None if unknown. Of
        the `left` trials that have not ended some may not be planned yet: these take as long as the others do."""
        if not (kinds := self._kinds()):
            return None
        # Copies, since the display asks from a thread of its own.
        states, running = list(self.states.values()), list(self.running.values())
        later = [self._left(state, kinds) for state in states if state.begun is None and not state.ended]
        if unplanned := max(0, left - sum(not state.ended for state in states)):
            wholes = [state.epochs * kinds[state.key][0] + kinds[state.key][1] for state in states]
            later += [np.mean(wholes, axis=0)] * unplanned
        # Before the first trial begins, workers start.
        start = 0.0 if self.has_begun else max(0.0, START - (self.clock() - self.planned_at))
        free = [self._left(state, kinds) for state in running] + [np.full(3, start)] * (self.slots - len(running))
        return Interval(*map(last_end, np.transpose(free), np.reshape(later, (-1, 3)).T))

    def _left(self, state: _State, kinds: _Kinds) -> np.ndarray:
        """Low, middle and high seconds, [3], that a trial still needs."""
        epoch, evaluation = kinds[state.key]
        passed = 0.0 if state.begun is None else self.clock() - state.heard
        return np.maximum(0.0, state.epochs_left * epoch + evaluation - passed)

    def _kinds(self) -> _Kinds:
        """What is known of each kind of trial; empty as long as nothing is."""
        keys = list(self.keys)
        timed = [self.timings[key] for key in keys if key in self.timings]
        if not timed and not any(seen.count for seen in list(self.seen.values())):
            return {}
        waited: dict[tuple[TimingKey, str], float] = defaultdict(float)
        for state in list(self.running.values()):
            now = (state.key, "epoch" if state.epochs_left else "evaluation")
            waited[now] = max(waited[now], self.clock() - state.heard)
        usual = {
            phase: statistics.fmean(getattr(timing, phase) for timing in timed) if timed else 1.0 for phase in PHASES
        }
        unknown = Timing(**usual, low=1 / UNKNOWN, high=UNKNOWN, source="similar runs", runs=0)
        kinds: dict[TimingKey, list[np.ndarray]] = {key: [] for key in keys}
        pace = 1.0
        for phase in PHASES:
            said = {key: getattr(self.timings.get(key, unknown), phase) for key in keys}
            seen = {key: self.seen[key, phase] for key in keys}
            if any(part.count for part in seen.values()):
                # Seconds that have passed for each that timings have said, of all kinds; these count as one more.
                weight = usual[phase] if timed else 0.0
                expected = weight + sum(seen[key].count * said[key] for key in keys)
                pace = (weight + sum(part.seconds for part in seen.values())) / expected if expected else 1.0
            for key in keys:
                timing = self.timings.get(key, unknown)
                kinds[key].append(_part(timing, pace * said[key], seen[key], waited[key, phase]))
        return kinds


def _part(timing: Timing, expected: float, seen: _Seen, waited: float) -> np.ndarray:
    """Low, middle and high seconds, [3], of an epoch or evaluation: what was seen of it, or `expected`, but not less
    than what one has been `waited` for."""
    weight = 1 if timing.source == "finished runs" or not seen.count else 0
    seconds = (weight * expected + seen.seconds) / (weight + seen.count)
    low, high = 1 - (1 - timing.low) / (1 + seen.count), 1 + (timing.high - 1) / (1 + seen.count)
    seconds = seconds if seen.count else max(seconds, waited)
    return seconds * np.array([min(low, 1 / STEADY), 1.0, max(high, STEADY)])
