"""Evaluation on frozen features: functions of arrays that yield (name, value) and leave logging to the caller.

None of them knows a model or draws from global random state; the same inputs give the same numbers, bit for bit, on one
machine. All raise `NonFiniteFeatures` where features hold NaN or infinity, and ValueError where shapes do not fit.
"""

from cplearn.evaluate.clustering import clustering, kmeans
from cplearn.evaluate.collapse import code_counts, collapse, singular_values
from cplearn.evaluate.inputs import NonFiniteFeatures
from cplearn.evaluate.knn import knn
from cplearn.evaluate.probe import linear_probe

__all__ = [
    "NonFiniteFeatures",
    "clustering",
    "code_counts",
    "collapse",
    "kmeans",
    "knn",
    "linear_probe",
    "singular_values",
]
