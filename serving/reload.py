"""Another set of models at run time: by HandleReloadConfigRequest, or because the config file has changed."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from serving.errors import Code, ServingError, UsageError
from serving.manager import Manager
from serving.model_config import list_models, read_model_config_file
from serving.object_store import RemoteError
from serving.remote import check_readable

logger = logging.getLogger(__name__)


def reload_config(
    manager: Manager, request: Any, timeout: float | None = None, gone: threading.Event | None = None
) -> Any:
    """Serves the models of a ReloadConfigRequest; blocks until the new ones are available.

    Labels change before anything is loaded, so a label can only move to a version that is available already. Models
    that are not in the request are unloaded; that is not waited for.

    Args:
        manager: Where the models are.
        request: A `ReloadConfigRequest`.
        timeout: Seconds to wait at most; None = as long as it takes.
        gone: Set when the client no longer waits.

    Returns:
        A `ReloadConfigResponse` with the status OK.

    Raises:
        ServingError: INVALID_ARGUMENT or FAILED_PRECONDITION, and nothing has changed; or UNKNOWN, DEADLINE_EXCEEDED,
            ABORTED or CANCELLED, and the models are configured but did not become available.

    Reference:
        https://www.tensorflow.org/tfx/serving/serving_config#reloading_model_server_configuration
    """
    from tensorflow_serving.apis import model_management_pb2

    if request.config.WhichOneof("config") != "model_config_list":
        raise ServingError(
            Code.INVALID_ARGUMENT,
            "ServerModelConfig type not supported by HandleReloadConfigRequest. "
            "Only ModelConfigList is currently supported",
        )
    before = {config.name: config for config in manager.configs()}
    configs = list_models(request.config.model_config_list, before)
    for config in configs:
        # TensorFlow Serving would wait for the directory to appear, and the client would never hear why.
        known = config.name in before and before[config.name].base_path == config.base_path
        if known:
            continue
        reason = ""
        if config.url:
            try:
                check_readable(config.url)
                continue
            except RemoteError as error:
                reason = f": {error}"
        elif config.base_path.is_dir():
            continue
        raise ServingError(
            Code.INVALID_ARGUMENT, f"Could not find base path {config.place} for servable {config.name}{reason}"
        )
    manager.wait_for(manager.apply(configs), timeout, gone)
    response = model_management_pb2.ReloadConfigResponse()
    response.status.SetInParent()  # present, and OK
    return response


class ConfigFileFollower:
    """Reads `--model_config_file` again and again, and serves what it says.

    The file has the last word: what a ReloadConfigRequest changed lasts until the next reading, as in TensorFlow
    Serving. A file that cannot be read, or cannot be applied, is logged and changes nothing.
    """

    def __init__(self, manager: Manager, path: Path, poll_seconds: float) -> None:
        """Reads nothing yet.

        Args:
            manager: Where the models are.
            path: The file.
            poll_seconds: Between readings; 0 = never.
        """
        self._manager = manager
        self._path = path
        self._poll_seconds = poll_seconds
        self._complaint = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="config-file-follower", daemon=True)

    def start(self) -> None:
        """Begins to read, for the first time after `poll_seconds`."""
        if self._poll_seconds > 0:
            self._thread.start()

    def close(self) -> None:
        """Reads no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def read(self) -> None:
        """Reads the file once and applies it if it differs from what is served."""
        try:
            configs = read_model_config_file(self._path)
            if configs != self._manager.configs():
                self._manager.apply(configs)
            self._complaint = ""
        except UsageError as error:
            self._complain(f"Failed to read ModelServerConfig file: {error}")
        except ServingError as error:
            self._complain(f"PollFilesystemAndReloadConfig failed to ReloadConfig: {error.message}")

    def _run(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                self.read()
            except Exception:
                # The thread must survive: without it the file would never be read again.
                logger.exception("reading %s failed; trying again", self._path)

    def _complain(self, message: str) -> None:
        """Logs a lasting trouble once, not at every reading."""
        if message != self._complaint:
            logger.error("%s", message)
        self._complaint = message
