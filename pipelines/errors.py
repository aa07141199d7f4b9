"""The errors that are told in one line: the user's to mend, or to try again."""


class UserError(ValueError):
    """A mistake in what the user gave: a file, a configuration, a flag.

    Its message is one line that says what was received, what was expected and how to mend it, with the file, row and
    column where there is one. Commands print that line and exit with code 2, without a traceback; in user code it is
    an ordinary `ValueError`.
    """


class UnreachableError(UserError):
    """What is nobody's mistake and may pass, such as a store that does not answer: the same command may succeed later.

    Attributes:
        exit_code: what a command ends with, 138, at which clusters start it again; they do not for a mistake.
    """

    exit_code = 138


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that is not there: the message says what was looked for, where, and how to get it."""
