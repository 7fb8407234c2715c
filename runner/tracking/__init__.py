"""The only writer to MLflow: one parent run a sweep, one child run a trial."""
