"""The models of a server: which are configured, which versions of them are loaded, and who may use one.

`serving.follower` decides when a model's directory is looked at, `serving.loader` what is loaded and unloaded then,
`serving.version_table` keeps the outcome. Requests read the outcome and never wait for the others.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from serving.errors import Code, ServingError
from serving.follower import Follower
from serving.loader import Loader, ManagerOptions
from serving.model_config import ModelConfig
from serving.progress import not_available, progress, unavailable_label
from serving.servable import Servable
from serving.version_table import State, VersionStatus, VersionTable
from serving.warm_up import OnWarmUp

__all__ = ["Manager", "ManagerOptions", "State", "VersionStatus"]

logger = logging.getLogger(__name__)

_DEFAULTS = ManagerOptions()
_STEP_SECONDS = 0.5


class Manager:
    """Keeps the configured models loaded and hands them to requests.

    Example:
        >>> manager = Manager([single_model("dense", "/models/dense")], load_model, poll_seconds=1)
        >>> manager.start()
        >>> manager.wait_until_available(stop)
        >>> with manager.lease("dense") as servable:
        ...     servable.model.run(...)
    """

    def __init__(
        self,
        configs: Sequence[ModelConfig],
        load: Callable[[Path], Any],
        poll_seconds: float,
        options: ManagerOptions = _DEFAULTS,
        on_warm_up: OnWarmUp | None = None,
    ) -> None:
        """Loads nothing yet.

        Args:
            configs: The models to serve.
            load: Makes a model with a `close()` from a version's directory, or raises ServingError.
            poll_seconds: Between looks at the directories; 0 = look once at each configuration.
            options: How versions are loaded.
            on_warm_up: Told of each warm-up: the version's folder, "OK" or a code's name, microseconds.
        """
        self._has_been_ready = False
        # Both are replaced as a whole, never changed: a request reads either without a lock.
        self._configs: Mapping[str, ModelConfig] = {config.name: config for config in configs}
        self._labels: Mapping[str, Mapping[str, int]] = {config.name: config.labels for config in configs}
        self._applying = threading.Lock()  # held while listeners are told, so that they hear of changes in their order
        self._listeners: list[Callable[[tuple[ModelConfig, ...]], None]] = []
        self._options = options
        self._stop = threading.Event()
        self._table = VersionTable()
        self._follower = Follower(self.poll, self.models, poll_seconds, options.num_load_threads)
        self._loader = Loader(
            load, self._table, self.config, options, on_warm_up, self._stop, again=self._follower.look_soon
        )

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
            version = self._labels.get(name, {}).get(label)
            if version is None:
                raise ServingError(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label}")
        servable = self._table.lease(name, version)
        if servable is None:
            request = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise ServingError(Code.NOT_FOUND, f"Servable not found for request: {request}")
        return servable

    def statuses(self, name: str) -> list[VersionStatus]:
        """Every version of a model that was ever seen wanted, highest first; ended ones stay. Unknown model: empty."""
        return self._table.statuses(name)

    def models(self) -> tuple[str, ...]:
        """Names of the configured models, in their order."""
        return tuple(self._configs)

    def loaded(self) -> list[Servable]:
        """The versions that take memory now."""
        return [
            entry.servable for name in self._table.models() for entry in self._table.entries(name) if entry.servable
        ]

    def labels(self, name: str) -> Mapping[str, int]:
        """`{label: version}` of a model; empty if there is no such model."""
        return self._labels.get(name, {})

    def config(self, name: str) -> ModelConfig | None:
        """The configuration of a model; None if there is no such model."""
        return self._configs.get(name)

    def configs(self) -> tuple[ModelConfig, ...]:
        """The configurations of all models, in their order."""
        return tuple(self._configs.values())

    def ready(self) -> bool:
        """Whether requests should come here.

        Once every configured model has had an available version, one is enough: a reload that adds a broken model must
        not take a server, and all its replicas, out of service for the models that answer.
        """
        available = [self._table.available(name) for name in self._configs]
        self._has_been_ready = self._has_been_ready or all(available)
        return all(available) or (self._has_been_ready and any(available))

    # Changes.

    def apply(self, configs: Sequence[ModelConfig]) -> tuple[str, ...]:
        """Serves these models from now on: others are unloaded; new paths, policies and labels take effect.

        Returns at once; labels have changed by then, loads and unloads follow.

        Args:
            configs: All the models to serve.

        Returns:
            The models that are new or have another base path, to give to `wait_for`.

        Raises:
            ServingError: FAILED_PRECONDITION, a label names a version that is not available. Nothing has changed then.
        """
        with self._applying:
            before, after = self._replace_configs(configs)
            changed = [name for name in {**before, **after} if before.get(name) is not after.get(name)]
            if changed:
                logger.info("models are configured anew: %s", ", ".join(sorted(changed)))
            self._follower.look_soon(changed)
            for listener in self._listeners:
                listener(tuple(after.values()))
        return tuple(
            name for name, config in after.items() if name not in before or before[name].base_path != config.base_path
        )

    def _replace_configs(
        self, configs: Sequence[ModelConfig]
    ) -> tuple[Mapping[str, ModelConfig], Mapping[str, ModelConfig]]:
        """Sets configurations and labels at once; the old ones and the new ones."""
        with self._table.changed:
            self._check_labels(configs)
            before = self._configs
            # A configuration that stays the same stays the same object: that is how looks tell that it is theirs.
            after = {
                config.name: before[config.name] if before.get(config.name) == config else config for config in configs
            }
            self._configs, self._labels = after, {name: config.labels for name, config in after.items()}
            self._table.changed.notify_all()
        return before, after

    def subscribe(self, listener: Callable[[tuple[ModelConfig, ...]], None]) -> None:
        """Has a function called with all configurations whenever `apply` has changed them. It must be quick."""
        self._listeners.append(listener)

    def _check_labels(self, configs: Iterable[ModelConfig]) -> None:
        if self._options.force_allow_any_version_labels_for_unavailable_models:
            return
        for config in configs:
            for label, version in config.labels.items():
                new = self._labels.get(config.name, {}).get(label, version) == version
                allowed = new and self._options.allow_version_labels_for_unavailable_models
                if not allowed and not self._table.available(config.name, version):
                    raise unavailable_label(config.name, version)

    # Start and end.

    def start(self) -> None:
        """Begins to follow the directories, in threads of its own."""
        if any(self._labels.values()) and not self._labels_may_wait():
            logger.warning(
                "the configuration's labels take effect when the models are loaded; TensorFlow Serving itself refuses "
                "labels at start without --allow_version_labels_for_unavailable_models"
            )
        self._follower.start()

    def wait_until_available(self, stop: threading.Event) -> bool:
        """Waits until every model has an available version, and every label names one.

        Args:
            stop: Set by whoever wants the waiting to end.

        Returns:
            True when all are available, False when `stop` was set first.

        Raises:
            ServingError: UNKNOWN, a model cannot be loaded; FAILED_PRECONDITION, a label's version is not available.
        """
        while not stop.is_set():
            with self._table.changed:
                waiting, failed = progress(self._configs.values(), self._table, self._loader)
                if failed:
                    raise not_available("servable(s)", failed)
                if not waiting:
                    waiting = self._labels_waiting()
                if not waiting:
                    self._has_been_ready = True
                    return True
                # Short, because `stop` is set by a signal, which notifies nobody.
                self._table.changed.wait(timeout=0.1)
        return False

    def wait_for(self, names: Iterable[str], timeout: float | None = None, gone: threading.Event | None = None) -> None:
        """Waits until models have an available version of their present configuration.

        Args:
            names: Models, as `apply` returned them.
            timeout: Seconds to wait at most; None = for ever.
            gone: Set when nobody wants to know any more; noticed within half a second.

        Raises:
            ServingError: UNKNOWN, a model cannot be loaded; DEADLINE_EXCEEDED; ABORTED, a model was removed meanwhile;
                UNAVAILABLE, the server stops; CANCELLED, `gone` was set.
        """
        names = tuple(names)
        waiting: list[str] = []
        end = math.inf if timeout is None else time.monotonic() + timeout

        def over() -> bool:
            nonlocal waiting
            if self._stop.is_set():
                raise ServingError(Code.UNAVAILABLE, "the server is stopping")
            if gone is not None and gone.is_set():
                raise ServingError(Code.CANCELLED, "nobody waits for the models any more")
            removed = [name for name in names if name not in self._configs]
            if removed:
                text = f"removed from the configuration by another request: {', '.join(removed)}"
                raise ServingError(Code.ABORTED, text)
            waiting, failed = progress([self._configs[name] for name in names], self._table, self._loader)
            if failed:
                raise not_available("model(s)", failed)
            return not waiting

        # In steps, because whoever sets `gone` must not wait for the table's lock, and so notifies nobody.
        while not self._table.wait_for(over, max(0.0, min(_STEP_SECONDS, end - time.monotonic()))):
            if time.monotonic() < end:
                continue
            reasons = "; ".join(self._loader.complaint(name) or f"{name} is not loaded yet" for name in waiting)
            raise ServingError(Code.DEADLINE_EXCEEDED, f"Models did not become available in time: {reasons}")

    def _labels_waiting(self) -> list[str]:
        """Models with a label whose version may yet become available. Raises for one that will not."""
        if self._labels_may_wait():
            return []
        waiting = []
        for name, labels in self._labels.items():
            for version in labels.values():
                if self._table.available(name, version):
                    continue
                entry = self._table.entry(name, version)
                if self._loader.has_looked(self._configs[name]) and not (entry and entry.may_come):
                    raise unavailable_label(name, version)
                waiting.append(name)
        return waiting

    def _labels_may_wait(self) -> bool:
        return (
            self._options.allow_version_labels_for_unavailable_models
            or self._options.force_allow_any_version_labels_for_unavailable_models
        )

    def poll(self, name: str) -> None:
        """Looks at a model's directory once: loads what is wanted and new, then unloads what is not wanted."""
        self._loader.look(name)

    def close(self, timeout: float) -> None:
        """Stops following the directories and unloads everything.

        Args:
            timeout: Seconds to wait at most for a load under way and for the requests inside the models.
        """
        end = time.monotonic() + timeout
        self._stop.set()
        with self._table.changed:
            self._table.changed.notify_all()
        self._follower.close(timeout)
        for name in self._table.models():
            self._loader.unload_all(name)
        self._table.wait_for(self._table.empty, max(0.0, end - time.monotonic()))
