"""From a sweep to jobs: what is to be run and in which order and in which state each trial is. Everything in it may be
imported; it knows neither Ray nor MLflow, nor how long trials take."""
