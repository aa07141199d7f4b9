"""A TFRecord file that has its name only when it is whole."""

from __future__ import annotations

import itertools
import os
import time
from contextlib import suppress
from pathlib import Path

from serving.engine import tensorflow

INCOMPLETE = ".incomplete"
_FRAME_BYTES = 16  # length and checksums around each record


class RecordFile:
    """A file while it is written; `finish` gives it its name.

    Methods raise OSError or `tf.errors.OpError` when the disk is full or gone.

    Attributes:
        size: Bytes that were appended.
    """

    def __init__(self, prefix: str) -> None:
        """Makes `<prefix>-<UTC time>-<n>.tfrecord.incomplete`, a name that no other server with this prefix has."""
        begun = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        for number in itertools.count():
            self._final = Path(f"{prefix}-{begun}-{number}.tfrecord")
            self._path = Path(f"{self._final}{INCOMPLETE}")
            with suppress(FileExistsError):
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640))
                if not self._final.exists():
                    break
                self._path.unlink()
        try:
            self._writer = tensorflow().io.TFRecordWriter(str(self._path))
        except BaseException:
            self._path.unlink()
            raise
        self._begun = time.monotonic()
        self.size = 0

    def append(self, data: bytes) -> None:
        """Appends a record; it is surely in the file after `flush`."""
        self._writer.write(data)
        self.size += len(data) + _FRAME_BYTES

    def flush(self) -> None:
        """Hands what was appended to the system."""
        self._writer.flush()

    def age(self) -> float:
        """Seconds since it was begun."""
        return time.monotonic() - self._begun

    def finish(self) -> None:
        """Gives it its name."""
        self._writer.close()
        self._path.rename(self._final)

    def abandon(self) -> None:
        """Keeps what is there under the name it has; nothing, if nothing is there."""
        with suppress(OSError, tensorflow().errors.OpError):
            self._writer.close()
        with suppress(OSError):
            if not self._path.stat().st_size:
                self._path.unlink()
