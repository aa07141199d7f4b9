"""The one process that writes a remote folder.

Object stores have no locks, so the writer keeps an object `.writer.json` there, which it writes anew every few seconds.
Who finds that of another process watches it: one that changes is in use; one that does not change for a minute was left
by a process that is gone, and is taken over. No clocks are compared. It is no protection against a process that stands
still for longer than that and goes on; such a one finds out at its next checkpoint, and ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from pipelines.errors import MissingFileError, UserError
from pipelines.object_store import read_bytes, remove, write_bytes
from pipelines.remote import join

WRITER = ".writer.json"
"""The object that says who writes a remote workdir."""
BEAT_SECONDS, STALE_SECONDS = 10.0, 60.0
"""Between two signs of life; and without one, until another process takes over."""


class TakenOverError(UserError):
    """Another process writes the remote folder now."""


@contextlib.contextmanager
def only_writer(
    url: str, beat_seconds: float = BEAT_SECONDS, stale_seconds: float = STALE_SECONDS
) -> Iterator[Callable[[], None]]:
    """Keeps other processes that ask for the same from writing to a remote folder; it leaves nothing there.

    Args:
        url: the folder.
        beat_seconds: between two signs of life.
        stale_seconds: without a sign of life, after which another process's folder is taken over.

    Yields:
        `Writer.check`, for the moment before something is written.

    Raises:
        UserError: another process writes there, or the store cannot be reached or does not let us write.
    """
    with Writer(url, uuid.uuid4().hex, beat_seconds, stale_seconds) as writer:
        try:
            yield writer.check
        except BaseException:
            with contextlib.suppress(UserError):  # what ended the block is told
                writer.release(keep=False)
            raise
        writer.release(keep=False)


class Writer:
    """The right to write a remote workdir, from the beginning of a block until it is released.

    Attributes:
        before: the mark of who had it last; None if nobody.
    """

    def __init__(self, url: str, owner: str, beat_seconds: float, stale_seconds: float) -> None:
        self._place = join(url, WRITER)
        self._url, self._beat_seconds, self._stale_seconds = url, beat_seconds, stale_seconds
        self._mine: dict[str, Any] = {
            "owner": owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "beats": 0,
            "released": False,
        }
        self._stop = threading.Event()
        self._lost_to = ""
        self._thread = threading.Thread(target=self._run, name="workdir-writer", daemon=True)
        self.before: str | None = None

    def __enter__(self) -> Writer:
        held = self._read()
        if held is None and self._write(create=True):
            self._thread.start()
            return self
        held = held or self._read() or self._mine
        if not held["released"] and held["owner"] != self._mine["owner"]:
            held = self._watched(held)
        self.before = held["owner"]
        self._write()
        # Two may have found it free at once: it is the later one's.
        time.sleep(min(1.0, self._beat_seconds / 4))
        self._refuse_other()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def check(self) -> None:
        """Asks the store who may write: this process may have stood still for long, and its thread with it.

        Raises:
            TakenOverError: another process has taken the workdir over.
            UserError: the store cannot be reached.
        """
        if not self._lost_to:
            self._look()
        if self._lost_to:
            why = "since this process did not answer in time"
            raise TakenOverError(f"{self._url} was taken over by {self._lost_to}, {why}")

    def release(self, keep: bool) -> None:
        """Lets the next process write at once.

        Args:
            keep: leave the mark of who wrote last; otherwise nothing is left in the store.

        Raises:
            TakenOverError: another process has taken the workdir over; its mark stays.
            UserError: the store cannot be reached.
        """
        self._stop.set()
        self._thread.join()
        self.check()
        self._mine["released"] = True
        if keep:
            self._write()
        else:
            remove(self._url, [WRITER])

    def _watched(self, held: dict[str, Any]) -> dict[str, Any]:
        """Waits until another process's sign of life is stale, or released."""
        end = time.monotonic() + self._stale_seconds
        print(
            f"{self._url} is marked as written by {_named(held)}; looking whether that goes on, for "
            f"{self._stale_seconds:.0f} seconds",
            file=sys.stderr,
        )
        while time.monotonic() < end:
            time.sleep(min(1.0, self._beat_seconds / 4))
            now = self._read()
            if now is None or now["released"]:
                return now or held
            if now != held:
                raise UserError(f"{self._url} is written by {_named(now)}; wait for it or use another --workdir")
        return held

    def _refuse_other(self) -> None:
        now = self._read()
        if now is not None and now["owner"] != self._mine["owner"]:
            raise UserError(f"{self._url} is written by {_named(now)}; wait for it or use another --workdir")

    def _run(self) -> None:
        while not self._stop.wait(self._beat_seconds):
            # Whatever goes wrong: publishing tells of it, and a thread that ended would give the workdir away.
            with contextlib.suppress(Exception):
                self._look()
                if self._lost_to:
                    return
                self._mine["beats"] += 1
                self._write()

    def _look(self) -> None:
        now = self._read()
        if now is not None and now["owner"] != self._mine["owner"]:
            self._lost_to = _named(now)

    def _read(self) -> dict[str, Any] | None:
        try:
            content = read_bytes(self._place)
        except MissingFileError:
            return None
        try:
            return {**self._mine, "owner": "", "host": "?", "pid": "?", **json.loads(content)}
        except (ValueError, TypeError, RecursionError) as error:
            raise UserError(f"{self._place} is damaged: {error}; remove it if no process writes there") from error

    def _write(self, create: bool = False) -> bool:
        return write_bytes(self._place, json.dumps(self._mine).encode(), create)


def _named(writer: dict[str, Any]) -> str:
    return f"process {writer['pid']} on {writer['host']}"
