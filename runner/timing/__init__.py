"""How long trials take: from finished runs, from a few timed steps, and while a sweep runs. Nothing here knows Ray or
MLflow: the caller brings the records of finished runs."""
