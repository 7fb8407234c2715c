"""What Ray Tune asks while a sweep runs: which pack is next, whether a job stops, whether all do."""

from __future__ import annotations

from collections.abc import Callable, MutableSequence, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler

from runner.execution.bridge import Bridge
from runner.planning.plan import Job


def described(pack: Sequence[Job]) -> dict[str, Any]:
    """What a pack's trainable is told about it, see `runner.execution.trainable.PackTrainable`."""
    data = [[pack[0].trial.dataset, pack[0].fingerprint], *map(list, pack[0].transfer)]
    return {
        "members": [job.trial.canonical() for job in pack],
        "keys": [job.key for job in pack],
        "data": data,
    }


class Gate(tune.search.Searcher):
    """Hands out packs one by one, the first that is admitted; where none waits, what `more` gives.

    One is handed out ahead of the free slots: with a pack waiting, Tune passes a worker on to it; without, it would end
    the worker and start another. But `more` is asked for no more than the slots can run, so that it has seen every
    result there is.
    """

    def __init__(
        self,
        packs: MutableSequence[list[Job]],
        slots: int,
        bridge: Bridge,
        admit: Callable[[Sequence[Job]], bool] | None,
        more: Callable[[], Job | None] | None,
    ) -> None:
        super().__init__()
        self.packs, self.slots, self.bridge = packs, slots, bridge
        self.admit, self.more = admit, more
        self.waiting, self.running = list(range(len(packs))), set[str]()

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if len(self.running) > self.slots:
            return None
        if not self.waiting and len(self.running) < self.slots:
            self._ask()
        for index in self.waiting:
            pack = self.packs[index]
            if self.admit is None or self.admit(pack):
                self.waiting.remove(index)
                self.running.add(trial_id)
                rungs = self.bridge.asha.rungs(pack[0]) if self.bridge.asha else []
                return {"index": index, **described(pack), "rungs": rungs}
        return None if self.running else self.FINISHED

    def _ask(self) -> None:
        job = self.bridge.guarded(self.more) if self.more else None
        if job is not None:
            self.packs.append([job])
            self.waiting.append(len(self.packs) - 1)
            for listener in self.bridge.listeners:
                listener.planned([[job]])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.running.discard(trial_id)

    # What is missing is computed anew, never restored, so there is no state to keep.

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def get_state(self) -> dict[str, Any]:
        return {}

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class Decider(FIFOScheduler):
    """`Asha` as Tune asks it: whether a trial stops at a result."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self.bridge = bridge

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        stop = self.bridge.guarded(lambda: self.bridge.decide(trial, result))
        return self.STOP if stop else self.CONTINUE

    def __getstate__(self) -> dict[str, Any]:
        # As of the gate.
        return {}


class Stop(tune.Stopper):
    """Ends all trials once a failure has been repeated too often, nobody can be told of results, a node is left out, or
    Ray is dead."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        bridge = self.bridge
        return bridge.repeats.reached is not None or bridge.broken is not None or bridge.reduced or bridge.look_around()
