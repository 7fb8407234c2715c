"""From a sweep to jobs: what is to be run and in which order, in which state each trial is, and what its run leaves on
disk. Everything in it may be imported; it knows neither Ray nor MLflow, nor how long trials take."""
