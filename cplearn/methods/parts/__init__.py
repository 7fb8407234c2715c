"""Parts that several methods share: projector heads, balanced assignments, and moving averages of weights.

Methods import them, and the trainer takes `ema` for its teacher. A part knows no method and no settings.
"""
