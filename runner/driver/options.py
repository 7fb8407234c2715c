"""What a sweep is asked to do, and who hears how it goes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.driver.tally import Tally
    from runner.events import Listener


@dataclass(frozen=True)
class SweepOptions:
    """The options of `cplearn sweep`, which says more about each.

    >>> SweepOptions("beta", overrides={"epochs": 1}, seeds=3, budget="1h").checkpoints
    'checkpoints'
    """

    # What to run.
    sweep: str
    """The sweep's name, or the path of its file."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Values of dotted settings; a list of values makes an axis."""
    seeds: int | None = None
    scale: str = "full"

    # On what each trial runs.
    cpus: float | None = None
    gpus: float | None = None
    ranks: int | None = None
    compile: bool = False

    # Which trials run, and for how long.
    force: bool = False
    """Run trials again that have finished before."""
    retry_failed: bool = False
    """Run trials again that have diverged."""
    retries: int = 3
    """Attempts after a lost worker or lack of memory."""
    stop_after: int = 3
    """Stop the sweep at so many failures that are the same; 0: never."""
    budget: str | None = None
    """Time after which to stop, `1h30m` for instance."""

    # Where things are kept.
    results: Path = Path("results")
    checkpoints: str = "checkpoints"
    checkpoint_every: float = 60
    """Least seconds between two checkpoints of a trial."""
    data_root: Path | None = None
    tracking_uri: str | None = None


class Observer:
    """Hears how a sweep goes. This one shows nothing; a subclass overrides what it wants to show."""

    def say(self, text: str) -> None:
        """Hear a sentence on what the sweep does."""

    def note(self, text: str) -> None:
        """Hear of something unusual; a thread of the tracker may call this."""

    @contextmanager
    def running(self, tally: Tally) -> Iterator[list[Listener]]:
        """Trials run inside of this; gives listeners that hear of each event, after `tally` has counted it."""
        yield []


class Printer(Observer):
    """Prints each sentence on a line."""

    def say(self, text: str) -> None:
        print(text)

    def note(self, text: str) -> None:
        print(f"note: {text}")
