"""Writes that a thread carries out in order, and repeats while their receiver is away."""

import queue
import threading
import time
from collections.abc import Callable

from cplearn.errors import InputError
from runner.machine.environment import WHOLE
from sweeps.secrets import hide_secrets

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0  # Seconds between two attempts; each pause is twice the one before.
PATIENCE = 30 * 60.0  # Seconds without success after which a receiver is given up.


class PendingWrites:
    """Carries out calls one after the other in a thread of its own, so that the caller never waits.

    A call that fails with an error for which `is_transient` holds is repeated, ever more slowly. After `patience`
    seconds without success, or at once after any other error, no call is carried out any more: `put` and `close` then
    raise. `say` gets a sentence when the receiver goes away and when it is back.

    >>> written = []
    >>> writes = PendingWrites(lambda error: isinstance(error, OSError), print)
    >>> writes.put(lambda: written.append("first"))
    >>> writes.close()
    >>> written
    ['first']
    """

    def __init__(
        self, is_transient: Callable[[BaseException], bool], say: Callable[[str], None], patience: float = PATIENCE
    ) -> None:
        self.is_transient, self.say, self.patience = is_transient, say, patience
        self.waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.error: BaseException | None = None
        self.hurry = threading.Event()
        self.thread = threading.Thread(target=self._run, name="pending writes", daemon=True)
        self.thread.start()

    def put(self, call: Callable[[], None]) -> None:
        """Add a call; raises InputError, or the error of an earlier call, if that could not be carried out."""
        self._check()
        self.waiting.put(call)

    def close(self, patience: float | None = None) -> None:
        """Wait until all calls are carried out, for `patience` seconds if given; raises as `put` does."""
        left = self.waiting.qsize()
        self.waiting.put(None)
        self.thread.join(1.0)
        if self.thread.is_alive() and left:
            self.say(f"{left} entries are still to be written to the tracking store")
        self.thread.join(patience)
        if self.thread.is_alive():
            self.hurry.set()
            raise InputError(
                f"{self.waiting.qsize()} entries did not reach the tracking store, which is away; run the same command "
                "again when it is back, and they are made up for"
            )
        self._check()

    def _check(self) -> None:
        if self.error is None:
            return
        if self.is_transient(self.error):
            raise InputError(
                f"the tracking store has been away for {self.patience / 60:.0f} min "
                f"({_line(self.error)}); run the same command again when it is back"
            ) from self.error
        raise self.error

    def _run(self) -> None:
        try:
            while (call := self.waiting.get()) is not None:
                self._carry_out(call)
        except BaseException as error:
            self.error = error

    def _carry_out(self, call: Callable[[], None]) -> None:
        pause, start = FIRST_PAUSE, time.monotonic()
        while True:
            try:
                with WHOLE:  # Libraries look for their credentials in the environment.
                    call()
            except Exception as error:
                if not self.is_transient(error) or time.monotonic() - start > self.patience or self.hurry.is_set():
                    raise
                if pause == FIRST_PAUSE:
                    self.say(f"the tracking store is away ({_line(error)}); trials go on, entries wait for it")
                self.hurry.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            else:
                break
        if pause > FIRST_PAUSE:
            self.say("the tracking store is back")


def _line(error: BaseException) -> str:
    """The beginning of an error's message, on one line and without secrets."""
    text = " ".join(hide_secrets(str(error)).split())
    return text if len(text) <= 120 else f"{text[:117]}..."
