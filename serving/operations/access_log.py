"""One JSON line for each request, written by a thread of its own.

    {"time": "2026-11-22T08:25:43.120Z", "request_id": "5f0c…-2a", "entrypoint": "REST", "method": "POST", …}

A request only puts its entry into a queue, which takes about two microseconds; five times a second the thread writes
what is there, in one go. A disk that is full or slow costs entries, which are counted, never requests.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.errors import UsageError

logger = logging.getLogger(__name__)

# What is written, in this order. Anything else in an entry stays out, so that no header gets here by accident.
FIELDS = (
    "time",  # when the answer was ready, UTC
    "request_id",
    "entrypoint",  # GRPC or REST
    "method",  # POST; the RPC's full name for gRPC
    "path",
    "model",
    "version",
    "signature",
    "code",  # OK or the name of the code
    "http_status",
    "latency_ms",
    "queued_ms",
    "batch_rows",
    "request_bytes",
    "response_bytes",
    "peer",
    "caller",  # the name of the token, never the token
)
# Texts come from clients: no entry may fill the queue, or the disk, alone.
MAX_TEXT = 512
_QUEUE_ENTRIES = 10_000
_WRITE_SECONDS = 0.2
_LOOK_SECONDS = 1.0
_CLOSE_SECONDS = 5.0

_ENCODER = json.JSONEncoder(default=str)  # json.dumps would make one for each line

_REQUEST_ID = re.compile("[A-Za-z0-9._-]{1,128}")
# Unique without asking the system each time: a random part for the process and a count. Ids name requests, they guard
# nothing, so it does no harm that the next one can be guessed.
_ID_PREFIX = secrets.token_hex(8)
_ID_COUNT = itertools.count(1)


def request_id(sent: str | None) -> str:
    """The id of a request: the client's, if it is fit for a log and a header, else a new one.

    Args:
        sent: The `x-request-id` of the request, untrusted; None = it has none.

    Returns:
        1 to 128 of the characters `A-Za-z0-9._-`.

    Example:
        >>> request_id("order-17")
        'order-17'
    """
    if sent is not None and _REQUEST_ID.fullmatch(sent):
        return sent
    return f"{_ID_PREFIX}-{next(_ID_COUNT):x}"


def open_access_log(path: str) -> AccessLog:
    """The access log of `--access_log_file`: a file, `-` for standard output, empty for none.

    Raises:
        UsageError: The file cannot be written.
    """
    return AccessLog(path) if path else NoAccessLog()


class AccessLog:
    """Writes entries to a file, which may be rotated by moving it away; `log` may be called by any thread.

    Attributes:
        enabled: Whether entries are written at all; if not, callers need not make them.
        dropped: How many entries were lost: the queue was full, or the file could not be written.
    """

    enabled = True

    def __init__(self, path: str) -> None:
        """Opens the file and starts the thread.

        Args:
            path: The file, made if it is not there, else continued; `-` = standard output.

        Raises:
            UsageError: The file cannot be written.
        """
        self.dropped = 0
        self._lock = threading.Lock()
        self._entries: deque[dict[str, Any]] = deque()
        self._path = None if path == "-" else Path(path)
        try:
            self._descriptor = _open(self._path)
        except OSError as error:
            raise UsageError(
                f"--access_log_file: cannot write {path}: {error.strerror}; expected a file in a folder that exists "
                "and that this user may write to, or - for standard output"
            ) from None
        self._torn = False
        self._failed = False
        self._reopen = False
        self._looked = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def log(self, entry: Mapping[str, Any]) -> None:
        """Hands an entry over; never blocks.

        Args:
            entry: Values for some of `FIELDS`; others are left out, and long texts cut. `time` is added.
        """
        if len(self._entries) >= _QUEUE_ENTRIES:
            self._drop(1)
            return
        kept = dict(entry)
        for name, value in entry.items():
            if type(value) is str and len(value) > MAX_TEXT:
                kept[name] = value[:MAX_TEXT] + "…"
        kept["time"] = time.time()
        self._entries.append(kept)

    def reopen(self) -> None:
        """Closes the file and opens its path again, soon; for the handler of SIGHUP."""
        self._reopen = True

    def close(self) -> None:
        """Writes what is left and ends the thread; waits a few seconds at most."""
        self._stop.set()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(_WRITE_SECONDS)
            self._follow_rotation()
            self._write_entries()
        if self._path is not None:
            os.close(self._descriptor)

    def _write_entries(self) -> None:
        entries = [self._entries.popleft() for _ in range(len(self._entries))]
        if not entries:
            return
        # A line that a full disk cut short is ended first, so that it spoils no other.
        data = ("\n" if self._torn else "") + "".join(map(entry_line, entries))
        written = 0
        view = memoryview(data.encode("ascii"))
        try:
            while written < len(view):
                written += os.write(self._descriptor, view[written:])
            self._torn = self._failed = False
        except OSError as error:
            whole = data[:written].count("\n") - (1 if self._torn and written else 0)
            self._torn = data[written - 1] != "\n" if written else self._torn
            self._drop(len(entries) - whole)
            self._say_once("cannot write", error)

    def _follow_rotation(self) -> None:
        """Opens the path again after SIGHUP, or when it is no longer the file that is open."""
        now = time.monotonic()
        if self._path is None or not (self._reopen or now - self._looked >= _LOOK_SECONDS):
            return
        self._looked = now
        if not self._reopen and _is_at(self._descriptor, self._path):
            return
        self._reopen = False
        try:
            descriptor = _open(self._path)
        except OSError as error:
            self._say_once("cannot open", error)  # the old file goes on: better there than nowhere
            return
        os.close(self._descriptor)
        self._descriptor, self._torn = descriptor, False

    def _drop(self, count: int) -> None:
        with self._lock:
            self.dropped += count

    def _say_once(self, what: str, error: OSError) -> None:
        if not self._failed:
            logger.error("access log: %s %s: %s; until it works, entries may be lost", what, self._path or "-", error)
        self._failed = True


class NoAccessLog(AccessLog):
    """The access log when none is wanted."""

    enabled = False

    def __init__(self) -> None:
        """Opens nothing, starts nothing."""
        self.dropped = 0

    def log(self, entry: Mapping[str, Any]) -> None:
        """Does nothing."""

    def reopen(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def entry_line(entry: Mapping[str, Any]) -> str:
    """An entry as its line: the known fields in their order, in ASCII, so that no terminal obeys a client's text."""
    fields = {name: entry[name] for name in FIELDS if name in entry}
    moment = datetime.fromtimestamp(entry["time"], UTC).isoformat(timespec="milliseconds")
    fields["time"] = moment.replace("+00:00", "Z")
    return _ENCODER.encode(fields) + "\n"


def _open(path: Path | None) -> int:
    if path is None:
        return sys.stdout.fileno()
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


def _is_at(descriptor: int, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
