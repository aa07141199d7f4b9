"""The error that is the user's to mend."""


class UserError(ValueError):
    """A mistake in what the user gave: a file, a configuration, a flag.

    Its message is one line that says what was received, what was expected and how to mend it, with the file, row and
    column where there is one. Commands print that line and exit with code 2, without a traceback; in user code it is
    an ordinary `ValueError`.
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that is not there: the message says what was looked for, where, and how to get it."""
