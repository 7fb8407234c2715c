"""Suggestions beyond a grid, by Optuna; the only importer of it.

`studies` keeps what was suggested beside the tracking store, `search` turns suggestions into jobs and results into
values, `summary` puts the best of them into words. Nothing here runs a trial or looks into the store by itself.
"""
