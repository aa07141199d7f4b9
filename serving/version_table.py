"""The table of versions: what is known of each version of each model, under one short lock.

Requests read it on the event loop, so nobody holds its lock for longer than it takes to look something up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from serving.errors import Code, ServingError
from serving.servable import Servable

# Whoever starts a server, or reloads its configuration, hears of files that are wrong rather than wait any longer for
# the next try.
_PATIENCE_SECONDS = 10.0

# A load that failed for one of these may go better without anybody touching the files: memory, a network drive.
_PASSING = frozenset(
    {
        Code.CANCELLED,
        Code.UNKNOWN,
        Code.DEADLINE_EXCEEDED,
        Code.RESOURCE_EXHAUSTED,
        Code.ABORTED,
        Code.INTERNAL,
        Code.UNAVAILABLE,
    }
)


class State(IntEnum):
    """TensorFlow Serving's states of a version; the numbers are those of `ModelVersionStatus.State`."""

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True)
class VersionStatus:
    """One row of the table of states: a version, its state, and the error that ended it, if one did."""

    version: int
    state: State
    error: ServingError | None = None


@dataclass(frozen=True)
class Failure:
    """A load that failed.

    Attributes:
        error: Why.
        base_path: The model's directory at that time.
        files: What the files looked like (`serving.versions.fingerprint`); other files are worth another try at once.
        tries: How often these files were tried.
        retry_at: When they are tried again, in seconds of `time.monotonic()`; None = not before they change.
    """

    error: ServingError
    base_path: Path
    files: frozenset[tuple[str, int, int]]
    tries: int
    retry_at: float | None

    @property
    def may_pass(self) -> bool:
        """Whether another try is near, or time alone may mend it; otherwise the version's own files are at fault."""
        if self.retry_at is None:
            return False
        return self.error.code in _PASSING or self.retry_at - time.monotonic() <= _PATIENCE_SECONDS


@dataclass(frozen=True)
class Entry:
    """What is known of a version.

    Attributes:
        status: Its row of the table of states.
        base_path: The model's directory that it came from.
        servable: The model, while it is loaded.
        failure: Its last load, if that failed.
    """

    status: VersionStatus
    base_path: Path
    servable: Servable | None = None
    failure: Failure | None = None

    @property
    def available(self) -> bool:
        """Whether requests are let in."""
        return self.status.state == State.AVAILABLE

    @property
    def may_come(self) -> bool:
        """Whether a load is under way, or another try is worth waiting for."""
        loading = self.status.state in (State.START, State.LOADING)
        return loading or (self.failure is not None and self.failure.may_pass)


class VersionTable:
    """Every version that was ever wanted. Thread-safe.

    Attributes:
        changed: The lock, and what is notified of every change.
    """

    def __init__(self) -> None:
        """An empty table."""
        self.changed = threading.Condition()
        self._models: dict[str, dict[int, Entry]] = {}

    def lease(self, name: str, version: int | None) -> Servable | None:
        """Enters a version, or the highest that is available; None if there is none. See `Manager.lease`."""
        with self.changed:
            entries = self._models.get(name, {})
            wanted = sorted(entries, reverse=True) if version is None else [version] if version in entries else []
            for number in wanted:
                entry = entries[number]
                if entry.available and entry.servable and entry.servable.try_enter():
                    return entry.servable
        return None

    def statuses(self, name: str) -> list[VersionStatus]:
        """The rows of a model, highest version first; ended ones stay."""
        return [entry.status for entry in self.entries(name)]

    def entries(self, name: str) -> list[Entry]:
        """What is known of a model's versions, highest first."""
        with self.changed:
            return [entry for _, entry in sorted(self._models.get(name, {}).items(), reverse=True)]

    def entry(self, name: str, version: int) -> Entry | None:
        """What is known of a version."""
        with self.changed:
            return self._models.get(name, {}).get(version)

    def available(self, name: str, version: int | None = None) -> bool:
        """Whether a version, or any version, lets requests in."""
        return any(entry.available for entry in self.entries(name) if version in (None, entry.status.version))

    def put(self, name: str, entry: Entry) -> None:
        """Sets what is known of a version."""
        with self.changed:
            self._models.setdefault(name, {})[entry.status.version] = entry
            self.changed.notify_all()

    def begin_unload(self, name: str, version: int) -> Entry | None:
        """Takes a version out of service; the entry whose model is to be freed, None if it was not in service."""
        with self.changed:
            entry = self.entry(name, version)
            if entry is None or not entry.available or entry.servable is None:
                return None
            self.put(name, replace(entry, status=VersionStatus(version, State.UNLOADING)))
            return entry

    def models(self) -> tuple[str, ...]:
        """Names of the models that were ever wanted."""
        with self.changed:
            return tuple(self._models)

    def wait_for(self, condition: Callable[[], object], timeout: float | None) -> bool:
        """Waits until a condition of the table is true; False when the time was over first."""
        with self.changed:
            return bool(self.changed.wait_for(condition, timeout))

    def empty(self) -> bool:
        """Whether no version takes memory."""
        with self.changed:
            return not any(entry.servable for entries in self._models.values() for entry in entries.values())
