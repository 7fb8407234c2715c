"""The search beyond a grid: suggestions of the studies become jobs, and the results of jobs become their values.

Where studies and tracking store disagree after a driver was killed, each mends the other: a suggestion without a value
whose trials have finished gets its value, and one that has ended unknown to the store has its trials run.
"""

import statistics
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping

from optuna.trial import TrialState

from cplearn.errors import InputError
from runner.events import FailureKind, Listener, TrialResult
from runner.planning.plan import Job, Plan
from runner.search import studies
from runner.search.studies import Suggestion
from sweeps.record import TIME, UNSEEN, Tag, TrialRecord, state_of

Recall = Callable[[Collection[str]], Mapping[str, TrialRecord]]
"""Gives what the tracking store has of the trials of some keys, the objectives among their metrics."""


class Search(Listener):
    """Gives the jobs that the studies of a sweep suggest, and tells the studies what has become of each.

    At most one driver at a time may have it: whoever holds the claims of the studies' keys. `recall` looks into the
    tracking store; `anew` starts new studies and recalls nothing. `claim` keeps other drivers from a job, `announce` is
    called when `plan` has got further jobs.

    A suggestion's value is the mean of each objective over the seeds. One that diverges at any seed fails, one that the
    scheduler stops at any seed is pruned; both count, and their other seeds are not begun. After any other failure it
    stays open, to be run again by the next call.
    """

    def __init__(
        self,
        plan: Plan,
        address: str,
        recall: Recall,
        *,
        anew: bool = False,
        claim: Callable[[str], bool] = lambda key: True,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        assert plan.sweep.search is not None
        self.plan, self.settings, self.claim, self.say = plan, plan.sweep.search, claim, say
        self.recall: Recall = (lambda keys: {}) if anew else recall
        self.announce: Callable[[], None] = lambda: None
        self.objectives = list(self.settings.objectives)
        self.asked: dict[str, int] = {}  # How many suggestions each study has.
        self.waiting: dict[str, list[Suggestion]] = {}  # The suggestions that wait for the end of a trial, by its key.
        self.ended: dict[str, list[float] | TrialState] = {}
        """The objectives of trials that have finished, and how others have ended for good."""
        self.queue: deque[Job] = deque()
        self.elsewhere: list[Job] = []  # Jobs that another driver runs.
        self.given: set[str] = set()  # Jobs that are queued, here or elsewhere, or handed out.
        self.mending: set[str] = set()  # Jobs that the store has lost, of suggestions that have ended already.
        self.studies = studies.find(plan, address)
        with studies.reachable():
            for study in self.studies:
                is_first = study.study is None
                if (is_first or anew) and study.begin() and is_first:
                    self.say(
                        f"axes, objectives, seeds or settings on {study.slug} are not those of its earlier study, so a "
                        "new one begins; trials that have finished are still not run again"
                    )
                study.close_unasked()
            self._go_on()

    # What the driver asks.

    @studies.reachable()
    def more(self) -> Job | None:
        """The next job to run; None if there is none now."""
        # Take back the jobs that other drivers no longer run.
        mine = [job for job in self.elsewhere if self.claim(job.key)]
        self.elsewhere = [job for job in self.elsewhere if job not in mine]
        records = self.recall({job.key for job in mine}) if mine else {}
        self.queue.extend(job for job in mine if not self._settle(job, records.get(job.key)))
        while self.queue or self._suggest():
            if not self.queue:
                continue  # All that was suggested is known already.
            job = self.queue.popleft()
            if not self._is_wanted(job.key):
                self.given.discard(job.key)
            elif self.claim(job.key):
                return job
            else:
                self.elsewhere.append(job)
        return None

    @property
    def to_come(self) -> int:
        """How many jobs `more` may still give."""
        room = sum(max(0, self.settings.trials - count) for count in self.asked.values())
        return sum(self._is_wanted(job.key) for job in self.queue) + room * len(self.plan.sweep.seeds)

    @property
    def tags(self) -> dict[str, str]:
        """What the sweep's run says of its studies."""
        return {Tag.STUDY: ", ".join(study.opened.study_name for study in self.studies)}

    def summary(self) -> str:
        """The best suggestions of each study in words (markdown), and whether they were chosen by the test split."""
        parts = [best for study in self.studies if (best := study.best())]
        if test := [name for name in self.objectives if not name.startswith((*UNSEEN, TIME))]:
            parts.append(
                f"**Chosen by the test split** ({', '.join(test)}): the numbers of the best trials are too good, and "
                "not to be compared with those of methods that were not chosen so."
            )
        return "\n\n".join(parts)

    # Events of jobs.

    @studies.reachable()
    def finished(self, job: Job, result: TrialResult) -> None:
        self._finish(job, result.metrics)

    @studies.reachable()
    def failed(self, job: Job, reason: str, kind: FailureKind) -> None:
        if kind == "diverged":
            self._end(job.key, TrialState.FAIL)

    @studies.reachable()
    def stopped(self, job: Job, epoch: int, reason: str, collapse: str = "", result: TrialResult | None = None) -> None:
        self._end(job.key, TrialState.PRUNED)

    # Studies.

    def _go_on(self) -> None:
        """Take up what was suggested before: what has no value first, then what the store has lost."""
        suggestions = [suggestion for study in self.studies for suggestion in study.suggestions()]
        self.asked = {study.key: sum(s.study is study for s in suggestions) for study in self.studies}
        records = self.recall({job.key for suggestion in suggestions for job in suggestion.jobs})
        for suggestion in sorted(suggestions, key=lambda s: not s.open):
            if suggestion.open:
                self._take_up(suggestion, records)
            elif suggestion.is_wanted:
                self.plan.add(suggestion.jobs)
                self._mend(suggestion.jobs, records)
            else:
                begun = [job for job in suggestion.jobs if job.key in records]
                self.plan.add(begun)
                # The driver may have died when the study knew of the end, and the store did not yet.
                ends = [records[job.key] for job in begun]
                if not any(record.stopped_by or record.failure == "diverged" for record in ends):
                    self._mend(begun, records)

    def _mend(self, jobs: list[Job], records: Mapping[str, TrialRecord]) -> None:
        """Run what the store has lost of a suggestion that has ended already."""
        lost = [job for job in jobs if state_of(records.get(job.key)) != "reused"]
        self.mending |= {job.key for job in lost}
        self._enqueue(lost)

    def _suggest(self) -> bool:
        """Ask for one more suggestion; False if there are enough."""
        study = min(self.studies, key=lambda study: self.asked[study.key])
        if self.asked[study.key] >= self.settings.trials:
            return False
        self.asked[study.key] += 1
        suggestion = study.suggest()
        if suggestion.fault:
            what = f"suggestion {suggestion.number} has settings that do not go together and counts as failed"
            self.say(f"{what}: {suggestion.fault}")
        self._take_up(suggestion, self.recall({job.key for job in suggestion.jobs}))
        self.announce()
        return True

    # Suggestions.

    def _take_up(self, suggestion: Suggestion, records: Mapping[str, TrialRecord]) -> None:
        """Tell the study at once what is known, and queue what is to be run."""
        if not suggestion.jobs:  # Settings that went together when they were suggested do so no more.
            suggestion.close(TrialState.FAIL)
        self.plan.add(suggestion.jobs)
        for job in suggestion.jobs:
            self.waiting.setdefault(job.key, []).append(suggestion)
            if not self._settle(job, records.get(job.key)):
                self._enqueue([job])

    def _enqueue(self, jobs: Iterable[Job]) -> None:
        # Of an equal point that was suggested before and is under way, the result is waited for.
        new = [job for job in jobs if job.key not in self.given]
        self.given |= {job.key for job in new}
        self.queue.extend(new)

    def _settle(self, job: Job, record: TrialRecord | None) -> bool:
        """Whether the trial needs not be run: it has ended before, here or as the store has it."""
        state = state_of(record, stopper=self.plan.stopper)
        if job.key in self.ended:
            self._conclude(job.key)
        elif record and state == "reused":
            self._finish(job, record.metrics)
        elif state == "diverged":
            self._end(job.key, TrialState.FAIL)
        elif state == "stopped":
            self._end(job.key, TrialState.PRUNED)
        else:
            return False
        return True

    def _finish(self, job: Job, metrics: Mapping[str, float]) -> None:
        if job.key not in self.waiting and job.key not in self.mending:
            return  # A baseline.
        if absent := [name for name in self.objectives if name not in metrics]:
            raise InputError(
                f"search.objectives: {absent[0]!r} is not measured for method {job.trial.method.name!r} "
                f"({job.dataset} {job.name}); choose another objective"
            )
        self._end(job.key, [float(metrics[name]) for name in self.objectives])

    def _end(self, key: str, end: list[float] | TrialState) -> None:
        self.ended[key] = end
        self.mending.discard(key)
        self._conclude(key)

    def _conclude(self, key: str) -> None:
        """Close the suggestions that have waited for this trial: at once if it has no values, else if it was the last
        of its suggestion."""
        for suggestion in self.waiting.pop(key, []):
            ends = [self.ended.get(job.key) for job in suggestion.jobs]
            values = [end for end in ends if isinstance(end, list)]
            if lost := next((end for end in ends if isinstance(end, TrialState)), None):
                suggestion.close(lost)
            elif len(values) == len(ends):
                suggestion.close(TrialState.COMPLETE, [statistics.fmean(each) for each in zip(*values, strict=True)])

    def _is_wanted(self, key: str) -> bool:
        return key in self.mending or any(suggestion.open for suggestion in self.waiting.get(key, ()))
