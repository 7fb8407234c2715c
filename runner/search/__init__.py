"""Suggestions beyond a grid, by Optuna; the only importer of it.

`studies` keeps what was suggested beside the tracking store and puts the best of it into words, `search` turns
suggestions into jobs and results into values; `importance` says which setting matters. Nothing here runs a trial or
looks into the store by itself.
"""
