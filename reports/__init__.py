"""Tables and figures from the runs in MLflow.

`store` alone reads MLflow; `aggregate` computes; `tables`, `render`, `figures` and `terminal` show; `build` writes the
files of a sweep. Nothing here imports torch, ray or the other three packages, and importing this package alone loads
nothing heavy.
"""
