"""What is said of a trial beside its state."""

from __future__ import annotations

from runner.planning.plan import Job, Plan, survey
from sweeps.record import TrialRecord


def test_every_state_comes_with_a_word(plan: Plan) -> None:
    jobs: list[Job] = plan.jobs
    records = {
        job.key: record
        for job, record in zip(
            jobs,
            [
                TrialRecord(jobs[0].key, "a", "FINISHED", "beta"),
                TrialRecord(jobs[1].key, "b", "KILLED", stopped_by="tiny: asha"),
                TrialRecord(jobs[2].key, "c", "FAILED", error="Traceback\nValueError: full", failure="exception"),
                TrialRecord(jobs[3].key, "d", "RUNNING", "beta", "2026-11-28"),
                TrialRecord(jobs[4].key, "e", "FAILED"),
            ],
            strict=False,
        )
    }
    surveyed = survey(jobs, records, {jobs[5].key: 4}, stopper="tiny: asha")
    assert [(trial.state, trial.detail, trial.is_left) for trial in surveyed] == [
        ("reused", "from beta", False),
        ("stopped", "early, by this sweep's scheduler", False),
        ("failed", "ValueError: full", True),
        ("running", "in beta since 2026-11-28, or lost", True),
        ("failed", "without a message", True),
        ("resumable", "at epoch 4 of 9", True),
    ]
