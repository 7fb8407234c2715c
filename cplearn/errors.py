"""The one exception that means: the user's input cannot be used."""


class InputError(ValueError):
    """A setting, file or data set cannot be used; the message is one sentence that says what, where and what to do.

    `key` is the dotted name of the offending setting, where there is one. The command line prints the message without
    a traceback and exits with status 2.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


def refuse_if(condition: object, key: str, reason: str) -> None:
    """Raise InputError about the setting `key` where the condition holds; its message is `key` and then `reason`."""
    if condition:
        raise InputError(f"{key} {reason}", key=key)
