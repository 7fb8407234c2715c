"""How long trials take: from finished runs, from a few timed steps, and while a sweep runs.

The rest of the runner works without it.
"""
