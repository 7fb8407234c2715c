"""What a sweep leaves in MLflow: one parent run a sweep, one child run a trial, written by the driver alone.

`tracker.Tracker` listens to the events of a sweep; `database` checks and makes stores; `tracker.log_report` adds a
report; `logged_model` fills MLflow's Models tab. Nothing else writes to MLflow. This folder must not know Ray, nor how
results are read.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Two lines at the end of each run would be drawn into the live display.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# Pending writes are repeated anyway; MLflow's own seven attempts would only make them wait for minutes at the end.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
