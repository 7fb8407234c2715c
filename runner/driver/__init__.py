"""One call of a sweep, from its file to its report: what to run, who runs it, what has become of it.

`run.SweepRun` ties planning, search, execution, tracking and reports together; the command line and `runner.sweep` are
thin layers above it. Nothing here prints: what a user should know is told to an `options.Observer`.
"""
