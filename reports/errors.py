"""The one exception that means: there is nothing to report on, or not what was asked for."""


class ReportError(ValueError):
    """A report cannot be made; the message is one sentence that says what, where and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """
