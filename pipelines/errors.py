"""Errors that are told in one line: what is the user's to mend, and what only needs to be tried again."""

USER_ERROR = 2
# Kubeflow's `restartPolicy: ExitCode` starts a pod again for codes from 128 on, and keeps 138 for programs that ask for
# it; our Kubernetes Job starts again after everything but 2.
TRY_AGAIN = 138


class UserError(ValueError):
    """A mistake in what the user gave: a file, a configuration, a flag.

    Its message is one line that says what was received, what was expected and how to mend it, with the file, row and
    column where there is one. Commands print that line and exit with code 2, without a traceback; in user code it is
    an ordinary `ValueError`.

    Attributes:
        exit_code: what a command ends with that it ends.
    """

    exit_code: int = USER_ERROR


class OutageError(UserError):
    """What is needed does not answer, such as a store, or not any more: no mistake, the same command may succeed later.

    Commands exit with code 138, after which clusters start a program again.
    """

    exit_code = TRY_AGAIN


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that is not there: the message says what was looked for, where, and how to get it."""
