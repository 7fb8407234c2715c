"""The training of one trial: its loop, its optimiser and schedules, and the online probe.

Import from here what the list below names. Nothing here knows Ray, MLflow or a sweep.
"""

from cplearn.training.loop import Outcome, TrialTraining, check, check_evaluation, operations, train, training_split

__all__ = ["Outcome", "TrialTraining", "check", "check_evaluation", "operations", "train", "training_split"]
