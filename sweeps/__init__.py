"""What to run: sweep files, their expansion into trials, and the identity of a trial.

Everybody may import from here. This package knows no trainer and nothing of ours: what the settings of a trial may be
is said by a `spec.Schema` that the caller brings.
"""
