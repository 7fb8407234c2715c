"""How much time a sweep still needs: what was expected of its packs, corrected by the pace they have shown."""

from __future__ import annotations

import heapq
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from runner.planning.plan import Job
from runner.timing.estimate import Kind, Timing, kind


@dataclass
class _State:
    """A pack on its way: `begun` and `seen` (the last sign of life) by the clock, `share` of its work that is done,
    after `skipped` epochs that an earlier run has trained.

    `prior` is what it was expected to take, in seconds if there is any timing, else in epochs; `work` is equal for
    packs that should take the same time.
    """

    work: tuple[Kind, int]
    timing: Timing | None
    open: set[str]
    prior: float = 1.0
    begun: float | None = None
    seen: float = 0.0
    share: float = 0.0
    skipped: int = 0


@dataclass
class _Sums:
    """Over packs, kept up to date as these change: with a budget they are asked for before every pack."""

    passed: float = 0.0
    """Seconds of those that have done a share of their work."""
    expected: float = 0.0
    """What was expected for these shares."""
    moved: int = 0
    """How many these are."""
    prior: float = 0.0
    """What was expected of all packs as a whole."""

    def add(self, state: _State, sign: int = 1) -> None:
        self.prior += sign * state.prior
        if state.begun is not None and state.share > 0:
            self.passed += sign * (state.seen - state.begun)
            self.expected += sign * state.share * state.prior
            self.moved += sign


@dataclass
class _Mean:
    """The mean of numbers that are not kept."""

    count: int = 0
    total: float = 0.0

    def add(self, number: float) -> None:
        self.count += 1
        self.total += number

    @property
    def value(self) -> float:
        return self.total / self.count


class Pace:
    """Follows packs and says what is left.

    A kind of pack of which some have ended takes what those took; for the others the `timings` count, all multiplied by
    one factor that the pace so far has shown. Without any timing the number of epochs stands for the work.
    """

    def __init__(
        self, timings: Mapping[Kind, Timing], slots: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.timings, self.slots, self.clock = timings, slots, clock
        self.packs: list[_State] = []
        self.of: dict[str, _State] = {}
        self.running: dict[int, _State] = {}
        self.took: dict[tuple[Kind, int], _Mean] = {}
        self.sums, self.timed = _Sums(), False

    def planned(self, packs: Sequence[Sequence[Job]]) -> None:
        for jobs in packs:
            for job in jobs:
                if job.key in self.of:  # in another pack than before
                    self._close(self.of[job.key], job)
            of_kind = kind(jobs)
            state = _State((of_kind, jobs[0].trial.epochs), self.timings.get(of_kind), {job.key for job in jobs})
            self.packs.append(state)
            self.of |= dict.fromkeys(state.open, state)
        known = [timing.seconds(epochs) / (epochs + 1) for (_, epochs), timing in self._known()]
        unit = statistics.mean(known) if known else 1.0
        for state in self.packs:
            epochs = state.work[1]
            state.prior = state.timing.seconds(epochs) if state.timing else (epochs + 1) * unit
        self.sums, self.timed = _Sums(), bool(known)
        for state in self.packs:
            self.sums.add(state)

    def started(self, job: Job) -> None:
        state = self.of[job.key]
        if state.begun is None:
            with self._changing(state):
                state.begun = state.seen = self.clock()
        if state.open:
            self.running[id(state)] = state
        self.slots = max(self.slots, len(self.running))

    def resumed(self, job: Job, epoch: int) -> None:
        """A pack goes on after an epoch; what is left of it is its work from now on."""
        state = self.of[job.key]
        if not state.skipped:
            whole, done = self._work(state, job.trial.epochs, epoch)
            with self._changing(state):
                state.prior *= 1 - done / whole
            state.skipped = epoch

    def epoch(self, job: Job, epoch: int) -> None:
        state = self.of[job.key]
        whole, done = self._work(state, job.trial.epochs - state.skipped, max(0, epoch - state.skipped))
        with self._changing(state):
            state.share = done / whole if whole else 0.0
            state.seen = self.clock()

    def _work(self, state: _State, epochs: int, done: int) -> tuple[float, float]:
        """All of so many epochs with the evaluation, and the part that is done, in one unit."""
        if state.timing:
            return state.timing.seconds(epochs), state.timing.epoch * done
        # Without a timing the evaluation counts as an epoch: on small data it takes as long.
        return epochs + 1.0, float(done)

    def ended(self, job: Job, *, failed: bool = False) -> None:
        state = self.of[job.key]
        self._close(state, job)
        done = not state.open and state.begun is not None and not failed
        with self._changing(state):
            state.seen = self.clock()
            state.share = 1.0 if done else state.share
        if done and state.begun is not None and not state.skipped:
            self.took.setdefault(state.work, _Mean()).add(state.seen - state.begun)

    @contextmanager
    def _changing(self, state: _State) -> Iterator[None]:
        """Keeps the sums right while a pack changes."""
        self.sums.add(state, -1)
        yield
        self.sums.add(state)

    def _close(self, state: _State, job: Job) -> None:
        state.open.discard(job.key)
        if not state.open:
            self.running.pop(id(state), None)

    def expected(self, pack: Sequence[Job]) -> float | None:
        """Seconds that a pack takes from its start; None as long as nothing is known."""
        return self._expected(self.of[pack[0].key])

    def ends_in(self, pack: Sequence[Job]) -> float | None:
        """Seconds until a pack would end if it took the next free slot; None as long as nothing is known."""
        seconds = self.expected(pack)
        if seconds is None:
            return None
        if len(self.running) < self.slots:
            return seconds
        return seconds + min(self._left(state, self._expected(state) or 0.0) for state in self.running.values())

    def remaining(self) -> float | None:
        """Seconds until the last pack ends, on slots that take the next pack whenever one is free; None if unknown."""
        factor = self._factor()
        running, waiting = [], []
        for state in self.packs:
            if not state.open:
                continue
            seconds = self._expected(state, factor)
            if seconds is None:
                return None
            if state.begun is None:
                waiting.append(seconds)
            else:
                running.append(self._left(state, seconds))
        ends = running + [0.0] * (self.slots - len(running))
        heapq.heapify(ends)
        for seconds in waiting:
            heapq.heapreplace(ends, ends[0] + seconds)
        return max(ends, default=0.0)

    def _known(self) -> list[tuple[tuple[Kind, int], Timing]]:
        return [(state.work, state.timing) for state in self.packs if state.timing]

    def _left(self, state: _State, whole: float) -> float:
        """Seconds that a running pack still needs of those that it takes as a whole."""
        return max(0.0, whole * (1 - state.share) - (self.clock() - state.seen))

    def _expected(self, state: _State, factor: float | None = None) -> float | None:
        if taken := self.took.get(state.work):
            return taken.value
        if factor is None:
            factor = self._factor()
        return None if factor is None else factor * state.prior

    def _factor(self) -> float | None:
        """Seconds that have passed for each that was expected; None if nothing was expected and nothing has passed."""
        # Of nothing, whatever rounding has left.
        passed, expected = (self.sums.passed, self.sums.expected) if self.sums.moved else (0.0, 0.0)
        if not self.timed:
            return passed / expected if expected else None
        # What was expected weighs as much as one pack that kept to it.
        weight = self.sums.prior / len(self.packs)
        return (passed + weight) / (expected + weight)
