"""Runs jobs with Ray Tune, here or on a cluster; the only importer of Ray."""
