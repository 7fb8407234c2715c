"""The one exception of `sweeps`, `reports` and `runner` that means: what the user has asked for cannot be done."""

from __future__ import annotations


class UserError(ValueError):
    """A request cannot be met as it stands; the message is one sentence that says what, where and what to do.

    The command line prints the message without a traceback and exits with status 2, as it does for
    `cplearn.errors.InputError`, the class of the trainer, which depends on no other package of ours.
    """
