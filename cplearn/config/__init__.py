"""What defines one trial: every setting that can change its numbers, with a type, a default and a sentence.

Import `TrialSettings` from `cplearn.config.trial`. Nothing here knows how a trial is run. `base` and `groups` know no
method, so that methods extend `base.MethodSettings`; `trial`, which puts all together, knows the methods.
"""
