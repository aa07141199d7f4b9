"""Files that are not any more what they were when they were checked: TensorFlow's errors do not name them."""

import gc
import itertools
import os
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import tensorflow as tf

from pipelines.errors import UserError

_REMEDY = "restore it and start again; a run goes on from its last checkpoint"
# As TensorFlow tells what a function in Python raised; there the file's name was known.
_RAISED = re.compile(r"\b(?:UserError|MissingFileError): (.*)")
# What is raised where a file has fewer records than it had, or others.
_OTHER_RECORDS = re.compile(r"Dataset was empty|indices\[|ParseExample|a feature has several values")
_RECORD = re.compile(r" record at (\d+)")


class CheckedFiles:
    """Files as they were when they were checked, by size and time of the last change.

    Args:
        paths: the files.
        damaged: from a byte offset to what is wrong with a record there in one of the files; given for files that
            TensorFlow itself reads, which `told` then looks at when it fails.
    """

    def __init__(self, paths: Sequence[str], damaged: Callable[[int], str | None] | None = None) -> None:
        self._stamps = {path: _stamp(path) for path in paths}
        self._damaged = damaged
        if damaged is not None:
            _read_by_tensorflow[next(_numbers)] = self

    def check(self, path: str, why: str = "") -> None:
        """Checks that a file is as it was.

        Raises:
            UserError: it is not, or not there any more.
        """
        now = _stamp(path)
        if now != self._stamps[path]:
            what = "removed" if now is None else "changed"
            raise UserError(f"{path} was {what} after it was checked{f' ({why})' if why else ''}; {_REMEDY}")

    def explain(self, error: tf.errors.OpError) -> None:
        """Says which of the files an error is about.

        Raises:
            UserError: the message names the file; if it is none of them, nothing is raised.
        """
        for path in self._stamps:
            self.check(path, first_line(error))
        at = _RECORD.search(str(error))
        said = self._damaged(int(at[1])) if at and self._damaged else None
        if said:
            raise UserError(f"{said}; {_REMEDY}")


# In the order in which they were checked, as far as they are still in use.
_read_by_tensorflow: weakref.WeakValueDictionary[int, CheckedFiles] = weakref.WeakValueDictionary()
_numbers = itertools.count()


@contextmanager
def told() -> Iterator[None]:
    """Turns what TensorFlow raises where a file was changed, damaged or removed after it was checked into one line.

    Raises:
        UserError: the message names the file.
    """
    try:
        yield
    except tf.errors.OpError as error:
        raised = _RAISED.search(str(error))
        # What another worker raised comes here, too, and is that worker's to tell.
        if raised and "ollective ops is aborted" not in str(error):
            raise UserError(raised[1]) from error
        lost = isinstance(error, tf.errors.DataLossError | tf.errors.NotFoundError)
        if lost or _OTHER_RECORDS.search(str(error)):
            gc.collect()  # files that nobody reads any more may well be gone
            for _, files in sorted(_read_by_tensorflow.items(), reverse=True):  # the last ones first
                files.explain(error)
        raise


def first_line(error: tf.errors.OpError) -> str:
    """What TensorFlow says first, without the names of its operations."""
    return re.sub(r"\{\{.*?\}\} ?", "", str(error).partition("[[{{")[0].partition("\n")[0]).strip()


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns
