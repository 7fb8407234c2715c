"""Running a sweep: plan, execution on Ray, tracking in MLflow, progress, and the command line that joins them."""
