"""Evaluation on frozen features: functions of arrays that yield (name, value) and leave logging to the caller.

`protocol` puts them together for a trained model; it, `features` and `figure_arrays` alone know a model or images. None
of the others draws from global random state; the same inputs give the same numbers, bit for bit, on one machine. All
raise `NonFiniteFeatures` if features hold NaN or infinity, and ValueError where shapes do not fit. scikit-learn is
imported by the functions that call it: it takes most of a second, for which a command that evaluates nothing, such as
`cplearn plan`, should not wait.
"""

from cplearn.evaluate.clustering import clustering, kmeans
from cplearn.evaluate.collapse import alpha_req, code_counts, collapse, effective_rank, singular_values
from cplearn.evaluate.inputs import NonFiniteFeatures, to_float64
from cplearn.evaluate.knn import knn
from cplearn.evaluate.mixture import mixture_entropy
from cplearn.evaluate.probe import PROTOCOLS, gradient_probe, linear_probe
from cplearn.evaluate.selection import lidar, view_agreement

__all__ = [
    "PROTOCOLS",
    "NonFiniteFeatures",
    "alpha_req",
    "clustering",
    "code_counts",
    "collapse",
    "effective_rank",
    "gradient_probe",
    "kmeans",
    "knn",
    "lidar",
    "linear_probe",
    "mixture_entropy",
    "singular_values",
    "to_float64",
    "view_agreement",
]
