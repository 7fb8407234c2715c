"""Suggestions beyond a grid; the only importer of Optuna."""
