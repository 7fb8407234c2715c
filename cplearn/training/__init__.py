"""The training of one trial: its loop, its optimiser and schedules, and the online probe.

Nothing here knows Ray, MLflow or a sweep.
"""

from cplearn.training.loop import (
    Footprint,
    Outcome,
    Pack,
    check,
    check_evaluation,
    footprint,
    train,
    training_split,
)

__all__ = ["Footprint", "Outcome", "Pack", "check", "check_evaluation", "footprint", "train", "training_split"]
