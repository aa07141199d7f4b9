"""What a look at a model's directory does: loads what is wanted and new, then unloads what is not wanted.

New versions are loaded before old ones go, so a model that is available stays available; a version that fails to load
is noted with its error and changes nothing else. Unloading waits for the requests inside a version, so each unload has
a short-lived thread of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from serving.errors import Code, ServingError
from serving.model_config import ModelConfig
from serving.object_store import RemoteError
from serving.remote import fetch_versions
from serving.servable import Servable
from serving.version_table import Entry, Failure, State, VersionStatus, VersionTable
from serving.versions import fingerprint, versions_on_disk, wanted_versions
from serving.warm_up import OnWarmUp, warm_up

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ManagerOptions:
    """How versions are loaded, in the names of TensorFlow Serving's flags.

    Attributes:
        max_num_load_retries: How often a load that failed is tried again while the files stay the same.
        load_retry_interval_micros: Between these tries, in microseconds.
        num_load_threads: Models that are loaded at once; 0 = one.
        enable_model_warmup: Answer the requests of a version's warm-up file before it becomes available.
        num_request_iterations_for_warmup: How often each of them.
        allow_version_labels_for_unavailable_models: A new label may name a version that is not available (yet).
        force_allow_any_version_labels_for_unavailable_models: So may a label that is moved.
    """

    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000
    num_load_threads: int = 0
    enable_model_warmup: bool = True
    num_request_iterations_for_warmup: int = 1
    allow_version_labels_for_unavailable_models: bool = False
    force_allow_any_version_labels_for_unavailable_models: bool = False


class Loader:
    """Makes the table of versions follow the directories, one look at a time for each model."""

    def __init__(
        self,
        load: Callable[[Path], Any],
        table: VersionTable,
        config: Callable[[str], ModelConfig | None],
        options: ManagerOptions,
        on_warm_up: OnWarmUp | None,
        stop: threading.Event,
        again: Callable[[Iterable[str], float], None],
    ) -> None:
        """Does nothing yet.

        Args:
            load: Makes a model with a `close()` from a version's directory, or raises ServingError.
            table: What is known of the versions; only this object changes it.
            config: The present configuration of a model; None = it is to be unloaded.
            options: How versions are loaded.
            on_warm_up: Told of each warm-up.
            stop: When set, nothing more is loaded.
            again: Called with models to look at again, and in how many seconds.
        """
        self._load = load
        self._table = table
        self._config = config
        self._options = options
        self._on_warm_up = on_warm_up
        self._stop = stop
        self._again = again
        self._looked: dict[str, ModelConfig] = {}
        self._complaints: dict[str, str] = {}

    def look(self, name: str) -> None:
        """Looks at a model's directory once."""
        config = self._config(name)
        if config is None:
            self.unload_all(name)
            self._complaints.pop(name, None)
            return
        try:
            self._look(config)
        finally:
            with self._table.changed:
                if not self._outdated(config):
                    self._looked[name] = config
                self._table.changed.notify_all()

    def has_looked(self, config: ModelConfig) -> bool:
        """Whether a look with this configuration, the very object, is over."""
        return self._looked.get(config.name) is config

    def complaint(self, name: str) -> str:
        """What is wrong with a model's directory; empty if nothing is."""
        return self._complaints.get(name, "")

    def _outdated(self, config: ModelConfig) -> bool:
        """Whether a look is to be broken off: it is not wanted any more, or another one will follow."""
        return self._stop.is_set() or self._config(config.name) is not config

    def _look(self, config: ModelConfig) -> None:
        name = config.name
        try:
            trouble = fetch_versions(config) if config.url else ""
            directories = versions_on_disk(config.base_path)
        except (OSError, RemoteError) as error:
            reason = error.strerror if isinstance(error, OSError) and not config.url else error
            self._complain(name, f"Could not find base path {config.place} for servable {name}: {reason}")
            return
        wanted = wanted_versions(config.policy, directories)
        if trouble:
            self._complain(name, f"Could not fetch all versions of servable {name}: {trouble}")
        else:
            self._complain(name, "" if wanted else _no_versions(config))
        for number in wanted:
            if self._outdated(config):
                return
            if self._should_load(config, number, directories[number]):
                self._load_version(config, number, directories[number])
        if self._outdated(config) or trouble:
            return
        # Unless the directory was emptied on purpose, the last good version stays until a wanted one has taken over.
        if wanted and not any(self._table.available(name, number) for number in wanted):
            return
        for entry in self._table.entries(name):
            if entry.status.version not in wanted:
                self._unload(name, entry.status.version)

    def _should_load(self, config: ModelConfig, number: int, directory: Path) -> bool:
        entry = self._table.entry(config.name, number)
        if entry is None:
            return True
        # An available version is loaded anew where the model's base path has changed: it is another model by that name.
        if entry.status.state != State.END and not (entry.available and entry.base_path != config.base_path):
            return False
        failure = entry.failure
        if failure is None or failure.base_path != config.base_path:
            return True
        # A version that failed is tried again when its files have changed, e.g. because a slow copy went on.
        due = failure.retry_at is not None and failure.retry_at <= time.monotonic()
        return due or failure.files != fingerprint(directory)

    def _load_version(self, config: ModelConfig, number: int, directory: Path) -> None:
        name, before = config.name, self._table.entry(config.name, number)
        replaced = before if before and before.available else None
        if not replaced:
            self._table.put(name, Entry(VersionStatus(number, State.START), config.base_path))
        files = fingerprint(directory)
        if not replaced:
            self._table.put(name, Entry(VersionStatus(number, State.LOADING), config.base_path))
        logger.info("loading %s version %d from %s", name, number, directory)
        try:
            servable = self._servable(name, number, directory)
        except ServingError as error:
            self._note_failure(config, number, files, error, before)
            return
        except Exception as error:
            # A fault of ours must not leave the version "loading" for ever; the follower logs it with its traceback.
            fault = ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
            self._note_failure(config, number, files, fault, before)
            raise
        self._table.put(name, Entry(VersionStatus(number, State.AVAILABLE), config.base_path, servable))
        logger.info("version %d of model %s is available", number, name)
        if replaced and replaced.servable:
            self._free(replaced.servable, lambda: None)
        if self._stop.is_set() or self._config(name) is None:
            self._unload(name, number)  # the manager was closed, or the model was removed meanwhile

    def _servable(self, name: str, number: int, directory: Path) -> Servable:
        model = self._load(directory)
        if self._options.enable_model_warmup:
            try:
                iterations = self._options.num_request_iterations_for_warmup
                warm_up(name, number, model, directory, iterations, self._on_warm_up)
            except BaseException:
                model.close()
                raise
        return Servable(name, number, model)

    def _note_failure(
        self,
        config: ModelConfig,
        number: int,
        files: frozenset[tuple[str, int, int]],
        error: ServingError,
        before: Entry | None,
    ) -> None:
        last = before.failure if before else None
        tries = last.tries + 1 if last and (last.files, last.base_path) == (files, config.base_path) else 1
        seconds = max(0.0, self._options.load_retry_interval_micros / 1e6)
        again = tries <= self._options.max_num_load_retries
        failure = Failure(error, config.base_path, files, tries, time.monotonic() + seconds if again else None)
        if before and before.available:
            self._table.put(config.name, replace(before, failure=failure))
        else:
            status = VersionStatus(number, State.END, error)
            self._table.put(config.name, Entry(status, config.base_path, failure=failure))
        logger.error("version %d of model %s was not loaded: %s", number, config.name, error.message)
        if again:
            logger.info("trying again in %g s, or when its files change", seconds)
            self._again([config.name], seconds)

    def unload_all(self, name: str) -> None:
        """Begins to unload every version of a model."""
        for entry in self._table.entries(name):
            self._unload(name, entry.status.version)

    def _unload(self, name: str, number: int) -> None:
        """Takes a version out of service at once, and out of memory when the requests inside it are done."""
        entry = self._table.begin_unload(name, number)
        if entry is None or entry.servable is None:
            return

        def finish() -> None:
            self._table.put(name, Entry(VersionStatus(number, State.END), entry.base_path))
            logger.info("version %d of model %s is unloaded", number, name)
            self._again([name], 0.0)  # it may be wanted again by now

        self._free(entry.servable, finish)

    def _free(self, servable: Servable, then: Callable[[], None]) -> None:
        def free() -> None:
            try:
                servable.retire()
            except Exception:
                # A fault of ours; the version must not stay "unloading" for ever, it could never be loaded again.
                logger.exception("version %d of model %s could not be closed", servable.version, servable.name)
            then()

        threading.Thread(target=free, name=f"unload-{servable.name}-{servable.version}", daemon=True).start()

    def _complain(self, name: str, message: str) -> None:
        """Logs a lasting trouble once, not at every look; an empty message ends it."""
        if message and self._complaints.get(name) != message:
            logger.warning("%s", message)
        self._complaints[name] = message


def _no_versions(config: ModelConfig) -> str:
    message = f"No versions of servable {config.name} found under base path {config.place}."
    if config.url:
        return f"{message} A version is there when its assets.extra/manifest.json is, as tfbigmodel.export writes it."
    if (config.base_path / "saved_model.pb").exists():
        return f"{message} It is itself a SavedModel: move it into a numbered folder, or give its parent as base path."
    return f"{message} Did you forget to name your leaf directory as a number (eg. '/1/')?"
