"""What goes wrong with a sweep as it is written."""

from __future__ import annotations


class SweepError(ValueError):
    """A sweep cannot be run as written; the message is one sentence that names file and key."""
