"""Samples of requests and their answers, as TFRecord files of PredictionLog.

TensorFlow Serving's own format: such a file can be a version's `assets.extra/tf_serving_warmup_requests` as it is (up
to 1,000 records of one model), and

    python -m serving.operations.request_log read <files>

prints it as JSON lines, one for each example, to learn from.

A file is written as `<prefix>-<UTC time>-<n>.tfrecord.incomplete` and loses the last part of its name when it is full
(64 MB), an hour old, no longer wanted, or when the server stops: whoever collects `*.tfrecord` never sees a half one.
After a crash the `.incomplete` file stays. Records are only ever appended, so all but its last can still be read.

Requests and answers may be personal data: the files are not for everyone to read, and how long to keep them is the
user's to say. Headers, and so tokens, are no part of them.
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.engine import tensorflow
from serving.errors import UsageError
from serving.operations.record_file import RecordFile
from serving.operations.request_records import answered_spec, main

logger = logging.getLogger(__name__)

# The type of TensorFlow Serving's `log_collector_config` that means these files; unset means them too.
COLLECTOR_TYPES = ("", "tfrecord")
MAX_FILE_BYTES = 64 * 2**20
MAX_FILE_SECONDS = 3600.0

_QUEUE_BYTES = 64 * 2**20
_WRITE_SECONDS = 0.2
_RETRY_SECONDS = 10.0  # a full disk is not asked again at once
_CLOSE_SECONDS = 10.0

_LOGS = {
    "PredictRequest": "predict_log",
    "ClassificationRequest": "classify_log",
    "RegressionRequest": "regress_log",
    "MultiInferenceRequest": "multi_inference_log",
}


def logging_config(prefix: str, sampling_rate: float) -> Any:
    """The LoggingConfig of `--request_log_prefix` and `--request_log_sampling_rate`."""
    from tensorflow_serving.config import logging_config_pb2

    config = logging_config_pb2.LoggingConfig()
    config.log_collector_config.filename_prefix = prefix
    config.sampling_config.sampling_rate = sampling_rate
    return config


def check_logging_config(model: str, config: Any) -> None:
    """Refuses a LoggingConfig that cannot be followed.

    Args:
        model: The model's name, for the text.
        config: A `tensorflow.serving.LoggingConfig`, of a config file or of `logging_config`.

    Raises:
        UsageError: Says what was expected.
    """
    collector, rate = config.log_collector_config, config.sampling_config.sampling_rate
    where = f"logging_config of model {model}"
    if not 0 <= rate <= 1:
        raise UsageError(f"{where}: sampling_rate must be from 0 to 1, but {rate:g} was given")
    if collector.type not in COLLECTOR_TYPES:
        raise UsageError(f"{where}: log_collector_config has type {collector.type!r}; only 'tfrecord' is known")
    prefix = collector.filename_prefix
    if rate and not os.path.isabs(prefix):
        raise UsageError(f"{where}: filename_prefix must be an absolute path, but {prefix!r} was given")
    folder = os.path.dirname(prefix)
    if rate and not (os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)):
        raise UsageError(f"{where}: filename_prefix {prefix}: {folder} is not a folder that this user may write to")


def prediction_log(request: Any, response: Any) -> Any:
    """A request and its response as the record that is logged.

    Args:
        request: A `PredictRequest`, `ClassificationRequest`, `RegressionRequest` or `MultiInferenceRequest`.
        response: The response to it.

    Returns:
        A `tensorflow.serving.PredictionLog`.
    """
    from tensorflow_serving.apis import prediction_log_pb2

    record = prediction_log_pb2.PredictionLog()
    log = getattr(record, _LOGS[request.DESCRIPTOR.name])
    # Not CopyFrom: for 150,000 floats that took 1.1 ms, this 0.05 ms.
    log.request.MergeFromString(request.SerializeToString())
    log.response.MergeFromString(response.SerializeToString())
    return record


@dataclass(frozen=True)
class _Model:
    """What is logged of a model."""

    sampling: Any
    prefix: str


class RequestLog:
    """Takes samples and writes them, by a thread; `wanted` and `log` may be called by any thread and never block.

    Example:
        >>> request_log = RequestLog()
        >>> request_log.configure({"dense": logging_config("/logs/dense", 0.01)})
        >>> if request_log.wanted("dense"):
        ...     request_log.log("dense", prediction_log(request, response))

    Attributes:
        dropped: How many samples were lost: too many waited, or the disk was full.
    """

    def __init__(
        self,
        saved_model_tags: Sequence[str] = (),
        max_file_bytes: int = MAX_FILE_BYTES,
        max_file_seconds: float = MAX_FILE_SECONDS,
    ) -> None:
        """Logs nothing yet.

        Args:
            saved_model_tags: Noted in every record.
            max_file_bytes: A file as large as this is finished, and another one begun.
            max_file_seconds: So is one as old as this.
        """
        self.dropped = 0
        self._tags = tuple(saved_model_tags)
        self._max_file_bytes = max_file_bytes
        self._max_file_seconds = max_file_seconds
        self._models: dict[str, _Model] = {}
        self._rates: dict[str, float] = {}
        self._random = random.Random()
        self._records: deque[tuple[str, bytes]] = deque()
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        # The rest belongs to the thread.
        self._files: dict[str, RecordFile] = {}
        self._retry_at: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)

    def configure(self, models: Mapping[str, Any]) -> None:
        """Sets what is logged from now on, for every model; may be called again.

        Args:
            models: `{model's name: LoggingConfig}`; a model that is not there is not logged, nor is one with rate 0.

        Raises:
            UsageError: A config cannot be followed; nothing is changed then.
        """
        for name, config in models.items():
            check_logging_config(name, config)
        logged = {name: config for name, config in models.items() if config.sampling_config.sampling_rate > 0}
        with self._lock:
            self._models = {
                name: _Model(config.sampling_config, config.log_collector_config.filename_prefix)
                for name, config in logged.items()
            }
            self._rates = {name: config.sampling_config.sampling_rate for name, config in logged.items()}
            if logged and not self._thread.is_alive() and not self._stop.is_set():
                self._thread.start()

    def wanted(self, model: str) -> bool:
        """Whether this request of the model is to be logged: drawn anew at each call."""
        rate = self._rates.get(model)
        return rate is not None and self._random.random() < rate

    def log(self, model: str, prediction_log: Any) -> None:
        """Hands a record over.

        Args:
            model: The model's name, as `configure` knows it.
            prediction_log: The record. Its metadata is filled here, with the version that answered among it.
        """
        config = self._models.get(model)
        if config is None:
            return  # the configuration has changed since it was wanted
        metadata = prediction_log.log_metadata
        if not metadata.HasField("model_spec"):
            metadata.model_spec.CopyFrom(answered_spec(prediction_log))
        metadata.sampling_config.CopyFrom(config.sampling)
        metadata.saved_model_tags[:] = self._tags
        metadata.timestamp_secs = int(time.time())
        # Bytes, not messages: only of bytes one knows how much memory waits here.
        data = prediction_log.SerializeToString()
        with self._lock:
            if self._records and self._waiting_bytes + len(data) > _QUEUE_BYTES:
                self.dropped += 1
                return
            self._waiting_bytes += len(data)
            self._records.append((config.prefix, data))

    def close(self) -> None:
        """Writes what waits, finishes the files and ends the thread; waits a few seconds at most."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(_WRITE_SECONDS)
            prefixes = {model.prefix for model in self._models.values()}
            batches: dict[str, list[bytes]] = {}
            for _ in range(len(self._records)):
                prefix, data = self._records.popleft()
                batches.setdefault(prefix, []).append(data)
            for prefix, batch in batches.items():
                self._write(prefix, batch)
                with self._lock:
                    self._waiting_bytes -= sum(map(len, batch))
            for prefix, file in list(self._files.items()):
                if stopped or prefix not in prefixes or file.age() >= self._max_file_seconds:
                    self._finish(prefix)

    def _write(self, prefix: str, batch: list[bytes]) -> None:
        """Appends records; those that are not surely on the disk count as dropped."""
        unsure = len(batch)
        if time.monotonic() >= self._retry_at.get(prefix, 0.0):
            try:
                for data in batch:
                    if prefix in self._files and self._files[prefix].size >= self._max_file_bytes:
                        self._files[prefix].finish()
                        del self._files[prefix]
                    if prefix not in self._files:
                        self._files[prefix] = RecordFile(prefix)
                    self._files[prefix].append(data)
                self._files[prefix].flush()
                unsure = 0
                self._retry_at.pop(prefix, None)
            except (OSError, tensorflow().errors.OpError) as error:
                self._give_up(prefix, error)
        with self._lock:
            self.dropped += unsure

    def _finish(self, prefix: str) -> None:
        try:
            self._files[prefix].finish()
            del self._files[prefix]
        except (OSError, tensorflow().errors.OpError) as error:
            self._give_up(prefix, error)

    def _give_up(self, prefix: str, error: Exception) -> None:
        """Leaves a file as a crash would; a new one is tried after a while."""
        if prefix not in self._retry_at:
            logger.error("request log: cannot write %s: %s; until it works, samples are lost", prefix, _reason(error))
        self._retry_at[prefix] = time.monotonic() + _RETRY_SECONDS
        if prefix in self._files:
            self._files.pop(prefix).abandon()


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", error)).split())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
