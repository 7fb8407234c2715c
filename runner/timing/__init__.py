"""How long trials take: from finished runs, from a few timed steps, and while a sweep runs.

`forecast` and `ProgressEstimate` may be used from outside, with the classes that they take and give. Nothing here knows
Ray or MLflow: the caller brings the records of finished runs.
"""

from runner.timing.forecast import Forecast, Machine, forecast
from runner.timing.progress_estimate import ProgressEstimate
from runner.timing.timings import Timing, TimingKey, timing_key

__all__ = ["Forecast", "Machine", "ProgressEstimate", "Timing", "TimingKey", "forecast", "timing_key"]
