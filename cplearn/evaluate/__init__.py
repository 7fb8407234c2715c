"""Evaluation on frozen features: functions of arrays that yield (name, value) and leave logging to the caller.

`protocol` puts them together for a trained model; it, `features` and `figure_arrays` alone know a model or images. None
of the others draws from global random state; the same inputs give the same numbers, bit for bit, on one machine. All
raise `NonFiniteFeatures` if features hold NaN or infinity, and ValueError where shapes do not fit. scikit-learn is
imported by the functions that call it: it takes most of a second, for which a command that evaluates nothing, such as
`cplearn plan`, should not wait.
"""
