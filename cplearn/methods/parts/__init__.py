"""Parts that several methods share: projector heads, balanced assignment, moving averages of weights."""
