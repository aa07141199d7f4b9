"""Which versions are loaded: a table of states, and a thread that makes it follow the directories.

New versions are loaded before old ones go, so a model that is available stays available; a version that fails to load
is noted with its error and changes nothing else. One thread loads, one version at a time, as TensorFlow Serving does by
default. Unloading waits for the requests inside a version, so each unload has a short-lived thread of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from serving.errors import Code, ServingError
from serving.model_config import ModelConfig
from serving.servable import Servable
from serving.versions import fingerprint, versions_on_disk, wanted_versions

logger = logging.getLogger(__name__)


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


@dataclass
class _Entry:
    """What the manager knows of a version: its row of the table, the model while loaded, the files that failed."""

    status: VersionStatus
    servable: Servable | None = None
    failed_files: frozenset[tuple[str, int, int]] | None = None


class Manager:
    """Keeps the configured models loaded and hands them to requests.

    Example:
        >>> manager = Manager([single_model("dense", "/models/dense")], load_model, poll_seconds=1)
        >>> manager.start()
        >>> manager.wait_until_available(stop)
        >>> with manager.lease("dense") as servable:
        ...     servable.model.run(...)
    """

    def __init__(self, configs: Sequence[ModelConfig], load: Callable[[Path], Any], poll_seconds: float) -> None:
        """Loads nothing yet.

        Args:
            configs: The models to serve.
            load: Makes a model with a `close()` from a version's directory, or raises ServingError.
            poll_seconds: Between looks at the directories; 0 = look once.
        """
        self._configs = {config.name: config for config in configs}
        self._load = load
        self._poll_seconds = poll_seconds
        self._entries: dict[str, dict[int, _Entry]] = {name: {} for name in self._configs}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model-manager", daemon=True)
        self._polls = 0
        self._complaints: dict[str, str] = {}

    # What requests ask.

    def lease(self, name: str, version: int | None = None, label: str | None = None) -> Servable:
        """A loaded version to use in a `with` block; it stays loaded until the block ends.

        Args:
            name: The model.
            version: Its number; None = by label, or the highest that is available.
            label: A label of the model's configuration.

        Raises:
            ServingError: INVALID_ARGUMENT for an unknown label, NOT_FOUND for a model or version that is not available.
        """
        if label is not None:
            labels: Mapping[str, int] = self._configs[name].labels if name in self._configs else {}
            if label not in labels:
                raise ServingError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
            version = labels[label]
        with self._changed:
            entries = self._entries.get(name, {})
            wanted = sorted(entries, reverse=True) if version is None else [version] if version in entries else []
            for number in wanted:
                entry = entries[number]
                if entry.status.state == State.AVAILABLE and entry.servable and entry.servable.try_enter():
                    return entry.servable
        request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {request}")

    def statuses(self, name: str) -> list[VersionStatus]:
        """Every version of a model that was ever seen wanted, highest first; ended ones stay. Unknown model: empty."""
        with self._changed:
            entries = self._entries.get(name, {})
            return [entries[number].status for number in sorted(entries, reverse=True)]

    # Start and end.

    def start(self) -> None:
        """Begins to follow the directories, in a thread of its own."""
        self._thread.start()

    def wait_until_available(self, stop: threading.Event) -> bool:
        """Waits until every model has an available version.

        Args:
            stop: Set by whoever wants the waiting to end.

        Returns:
            True when all are available, False when `stop` was set first.

        Raises:
            ServingError: A model has no available version and at least one that failed to load.
        """
        while not stop.is_set():
            with self._changed:
                unavailable = [name for name in self._configs if not self._available(name)]
                # A failure counts once a whole look is over: a lower version may yet load after a higher one failed.
                if self._polls and unavailable:
                    for name in unavailable:
                        for entry in self._entries[name].values():
                            if entry.status.error is not None:
                                raise entry.status.error
                if not unavailable:
                    return True
                self._changed.wait(timeout=0.1)  # short, because `stop` is set by a signal, which notifies nobody
        return False

    def close(self, timeout: float) -> None:
        """Stops following the directories and unloads everything.

        Args:
            timeout: Seconds to wait at most for a load under way and for the requests inside the models.
        """
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        for name, entries in self._entries.items():
            for number in list(entries):
                self._unload(name, number)
        with self._changed:
            self._changed.wait_for(lambda: not any(self._loaded(name) for name in self._entries), timeout)

    # The thread.

    def _run(self) -> None:
        while not self._stop.is_set():
            for name in list(self._configs):
                # The thread must survive whatever a directory or a model does to it: without it no version would ever
                # be loaded or unloaded again. Expected errors are handled below; this is for ours.
                try:
                    self.poll(name)
                except Exception:
                    logger.exception("looking for versions of %s failed; trying again", name)
            with self._changed:
                self._polls += 1
                self._changed.notify_all()
            if not self._poll_seconds or self._stop.wait(self._poll_seconds):
                return

    def poll(self, name: str) -> None:
        """Looks at a model's directory once: loads what is wanted and new, then unloads what is not wanted."""
        config = self._configs[name]
        try:
            directories = versions_on_disk(config.base_path)
        except OSError as error:
            self._complain(name, f"Could not find base path {config.base_path} for servable {name}: {error.strerror}")
            return
        wanted = wanted_versions(config.policy, directories)
        self._complain(name, "" if wanted else _no_versions(config))
        for number in wanted:
            if self._stop.is_set():
                return
            if self._should_load(name, number, directories[number]):
                self._load_version(name, number, directories[number])
        # Unless the directory was emptied on purpose, the last good version stays until a wanted one has taken over.
        if wanted and not any(self._state(name, number) == State.AVAILABLE for number in wanted):
            return
        for number in self._loaded(name):
            if number not in wanted:
                self._unload(name, number)

    def _should_load(self, name: str, number: int, directory: Path) -> bool:
        entry = self._entries[name].get(number)
        if entry is None:
            return True
        # A version that failed is tried again when its files have changed, e.g. because a slow copy went on.
        return entry.status.state == State.END and entry.failed_files != fingerprint(directory)

    def _load_version(self, name: str, number: int, directory: Path) -> None:
        self._set(name, number, State.START)
        files = fingerprint(directory)
        self._set(name, number, State.LOADING)
        logger.info("loading %s version %d from %s", name, number, directory)
        try:
            model = self._load(directory)
        except ServingError as error:
            logger.error("version %d of model %s was not loaded: %s", number, name, error.message)
            self._set(name, number, State.END, error, failed_files=files)
            return
        except Exception as error:
            # A fault of ours must not leave the version "loading" for ever; the thread logs it with its traceback.
            fault = ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
            self._set(name, number, State.END, fault, failed_files=files)
            raise
        self._set(name, number, State.AVAILABLE, servable=Servable(name, number, model))
        logger.info("version %d of model %s is available", number, name)

    def _unload(self, name: str, number: int) -> None:
        """Takes a version out of service at once, and out of memory when the requests inside it are done."""
        with self._changed:
            entry = self._entries[name][number]
            if entry.status.state != State.AVAILABLE or entry.servable is None:
                return
            servable = entry.servable
            self._set(name, number, State.UNLOADING, servable=servable)

        def finish() -> None:
            servable.retire()
            self._set(name, number, State.END)
            logger.info("version %d of model %s is unloaded", number, name)

        threading.Thread(target=finish, name=f"unload-{name}-{number}", daemon=True).start()

    def _set(
        self,
        name: str,
        number: int,
        state: State,
        error: ServingError | None = None,
        servable: Servable | None = None,
        failed_files: frozenset[tuple[str, int, int]] | None = None,
    ) -> None:
        with self._changed:
            self._entries[name][number] = _Entry(VersionStatus(number, state, error), servable, failed_files)
            self._changed.notify_all()

    def _state(self, name: str, number: int) -> State | None:
        entry = self._entries[name].get(number)
        return entry.status.state if entry else None

    def _available(self, name: str) -> bool:
        return any(entry.status.state == State.AVAILABLE for entry in self._entries[name].values())

    def _loaded(self, name: str) -> list[int]:
        """Versions that take memory: available ones and those that are being unloaded."""
        with self._changed:
            return [number for number, entry in self._entries[name].items() if entry.servable is not None]

    def _complain(self, name: str, message: str) -> None:
        """Logs a lasting trouble once, not at every look; an empty message ends it."""
        if message and self._complaints.get(name) != message:
            logger.warning("%s", message)
        self._complaints[name] = message


def _no_versions(config: ModelConfig) -> str:
    message = f"No versions of servable {config.name} found under base path {config.base_path}."
    if (config.base_path / "saved_model.pb").exists():
        return f"{message} It is itself a SavedModel: move it into a numbered folder, or give its parent as base path."
    return f"{message} Did you forget to name your leaf directory as a number (eg. '/1/')?"
