"""From a sweep to jobs: what is to be run, in which order, and what is known of each trial. Knows no Ray."""
