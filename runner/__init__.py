"""Running a sweep: plan, execution on Ray, tracking in MLflow, progress, and the command line that joins them."""

import os

# Ray and Tune read these when they are imported or a sweep starts. Tune's own handler of Ctrl-C ends `fit` as if all
# were done; of its two displays, only the older one can be silenced. Tune asks for so many trials ahead of free slots:
# `runner.execution.dispatch` limits them itself, and with 1, which is Tune's default, workers would start one by one.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "1000")
