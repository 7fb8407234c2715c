"""Running jobs with Ray Tune, on this machine or on a cluster; nothing else imports Ray.

`contract` is the page to read first. Others use `execute.execute` and `execute.cluster`, the options in `contract`, and
`tune_callbacks.Asha`. Nothing here knows MLflow, Optuna or the command line: results leave as events (`runner.events`).
"""
