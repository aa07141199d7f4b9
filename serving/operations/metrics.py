"""What Prometheus reads: TensorFlow Serving's metrics under its names, and some of ours.

Written by a writer of our own, because prometheus_client appends `_total` to the name of every counter and a
TensorFlow Serving dashboard asks for `:tensorflow:serving:request_count`. Its parser reads what is written here.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from serving.errors import UsageError
from serving.operations.resources import resident_bytes
from serving.protos import read_text_message

if TYPE_CHECKING:
    from serving.flags import ServerOptions

logger = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DEFAULT_PATH = "/monitoring/prometheus/metrics"
OUR_PREFIX = "tfbigmodel_serving_"

# Each label set of a histogram is 36 lines of every page. Beyond this many, further ones are counted together.
MAX_LABEL_SETS = 1000
OTHER = "other"

# TensorFlow Serving's bounds for microseconds, 10 µs to 24 minutes; it multiplies step by step, and so its digits are
# these. Batches: powers of two.
LATENCY_BOUNDS = tuple(accumulate([1.8] * 32, lambda bound, growth: bound * growth, initial=10.0))
ROWS_BOUNDS = tuple(float(2**power) for power in range(13))

# The engine: TensorFlow Serving tells its two apart by this label, and ours runs a Session as its older one does.
_RUNTIME = "TF1"

Reading = Iterable[tuple[Mapping[str, str], float]]


def monitoring_path(options: ServerOptions) -> str | None:
    """The path of the metrics on the REST port.

    Without a file they are on, unlike TensorFlow Serving's. With a file it is as there: what has a `prometheus_config`
    without `enable: true` is off, and an empty path means the default.

    Args:
        options: The command line.

    Returns:
        The path, or None for no metrics.

    Raises:
        UsageError: The file cannot be read, or its path does not begin with a slash.

    Example:
        >>> # prometheus_config { enable: true path: "/metrics" }
        >>> monitoring_path(ServerOptions(monitoring_config_file="monitoring.config"))
        '/metrics'
    """
    if not options.monitoring_config_file:
        return DEFAULT_PATH
    file = Path(options.monitoring_config_file)
    message = read_text_message(file, "MonitoringConfig", "monitoring_config_file")
    if not message.HasField("prometheus_config"):
        return DEFAULT_PATH
    config = message.prometheus_config
    if config.path and not config.path.startswith("/"):
        raise UsageError(
            f"--monitoring_config_file: {file}: prometheus_config has path {config.path!r}; "
            f'expected one that begins with a slash, e.g. path: "{DEFAULT_PATH}"'
        )
    if not config.enable:
        return None
    return config.path or DEFAULT_PATH


class Metrics:
    """Counts what happens, and writes the page that Prometheus reads.

    Any thread may call any method. Label values must come from the configuration (names of configured models), not from
    requests: a client that invents names must not make the page longer.

    Example:
        >>> metrics = Metrics()
        >>> metrics.request("dense", "Predict", "GRPC", "OK", 731.0)
        >>> metrics.gauge("queue_depth", "Requests that wait for a batch.", lambda: [({"model_name": "dense"}, 3)])
        >>> page = metrics.render()
    """

    def __init__(self) -> None:
        """No counts yet; the process's memory and start are on the page from the beginning."""
        serving = ":tensorflow:serving:"
        latency = LATENCY_BOUNDS
        self._request_count = _Counter(f"{serving}request_count", ("model_name", "status"))
        self._request_latency = _Histogram(f"{serving}request_latency", ("model_name", "API", "entrypoint"), latency)
        self._runtime_latency = _Histogram(f"{serving}runtime_latency", ("model_name", "API", "runtime"), latency)
        self._warm_up_latency = _Histogram(f"{serving}model_warmup_latency", ("model_path", "status"), latency)
        # TensorFlow Serving names the queue by its thread pool. Here each model has queues of its own.
        self._queuing_latency = _Histogram(
            f"{serving}batching_session:queuing_latency", ("model_name", "thread_pool_name"), latency
        )
        self._batch_size = _Histogram(f"{OUR_PREFIX}batch_size", ("model_name",), ROWS_BOUNDS, "Rows of one graph run.")
        # In the order of their names, as TensorFlow Serving's page is.
        self._recorded: tuple[_Counter | _Histogram, ...] = (
            self._queuing_latency,
            self._warm_up_latency,
            self._request_count,
            self._request_latency,
            self._runtime_latency,
            self._batch_size,
        )
        self._readings: dict[str, _Reading] = {}
        started = time.time()
        self.gauge("start_time_seconds", "When this server started, Unix time.", lambda: [({}, started)])
        self.gauge("resident_memory_bytes", "Memory of the process in RAM.", lambda: [({}, resident_bytes())])

    def request(self, model: str, api: str, entrypoint: str, status: str, microseconds: float) -> None:
        """Counts a request that has been answered; its latency only if it went well, as TensorFlow Serving does.

        Args:
            model: Name of the model.
            api: `Predict`, `Classify`, `Regress` or `MultiInference`; in small letters for REST, as TensorFlow Serving
                writes it.
            entrypoint: `GRPC` or `REST`.
            status: `OK` or the name of the code, e.g. `INVALID_ARGUMENT`.
            microseconds: From the request's arrival to its answer.
        """
        self._request_count.add((model, status))
        if status == "OK":
            self._request_latency.observe((model, api, entrypoint), microseconds)

    def runtime(self, model: str, api: str, microseconds: float) -> None:
        """Counts the time that the graph took for a request ; `api` is `Predict` etc. for both ports."""
        self._runtime_latency.observe((model, api, _RUNTIME), microseconds)

    def warm_up(self, model_path: str, status: str, microseconds: float) -> None:
        """Counts the warm-up of a version.

        Args:
            model_path: The version's folder.
            status: `OK` or what went wrong.
            microseconds: How long it took.
        """
        self._warm_up_latency.observe((model_path, status), microseconds)

    def batch(self, model: str, rows: int, queued_microseconds: float | Iterable[float]) -> None:
        """Counts one run of a graph for one or several requests.

        Args:
            model: Name of the model.
            rows: Rows of the run, all requests together.
            queued_microseconds: How long the request waited; several values for several requests.
        """
        self._batch_size.observe((model,), rows)
        waits = (queued_microseconds,) if isinstance(queued_microseconds, int | float) else queued_microseconds
        for wait in waits:
            self._queuing_latency.observe((model, model), wait)

    def gauge(self, name: str, help: str, read: Callable[[], Reading]) -> None:
        """Adds a metric of ours whose values are asked for whenever the page is written.

        Args:
            name: Without the prefix: `queue_depth` is on the page as `tfbigmodel_serving_queue_depth`.
            help: One sentence for whoever reads the page.
            read: Gives `(labels, value)` pairs; called in the thread that renders.

        Raises:
            ValueError: The name is no metric name, or taken.
        """
        self._add_reading(name, help, "gauge", read)

    def counter(self, name: str, help: str, read: Callable[[], Reading]) -> None:
        """As `gauge`, for a count that only grows and is kept elsewhere, e.g. log entries dropped."""
        self._add_reading(name, help, "counter", read)

    def render(self) -> bytes:
        """The page, in Prometheus' text format 0.0.4 (`CONTENT_TYPE`)."""
        lines: list[str] = []
        for metric in self._recorded:
            metric.write(lines)
        for name in sorted(self._readings):
            self._readings[name].write(lines)
        lines.append("")
        # "replace": a half surrogate in a label must not cost the page.
        return "\n".join(lines).encode("utf-8", "replace")

    def _add_reading(self, name: str, help: str, kind: str, read: Callable[[], Reading]) -> None:
        if not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise ValueError(f"a metric's name must be made of a-z, 0-9 and _, but {name!r} was given")
        full_name = OUR_PREFIX + name
        if full_name in self._readings or any(metric.name == full_name for metric in self._recorded):
            raise ValueError(f"there is a metric {full_name} already")
        self._readings = {**self._readings, full_name: _Reading(full_name, help, kind, read)}


class _Counter:
    """A count for each label set."""

    def __init__(self, name: str, labels: tuple[str, ...]) -> None:
        self.name = name
        self._labels = labels
        self._counts: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()

    def add(self, values: tuple[str, ...]) -> None:
        with self._lock:
            if values not in self._counts and len(self._counts) >= MAX_LABEL_SETS:
                values = (OTHER,) * len(values)
            self._counts[values] = self._counts.get(values, 0) + 1

    def write(self, lines: list[str]) -> None:
        with self._lock:
            counts = sorted(self._counts.items())
        lines.append(f"# TYPE {self.name} counter")
        for values, count in counts:
            lines.append(f"{self.name}{{{label_text(dict(zip(self._labels, values, strict=True)))}}} {count}")


class _Histogram:
    """For each label set, how many values fell between which bounds, and their sum."""

    def __init__(self, name: str, labels: tuple[str, ...], bounds: tuple[float, ...], help: str = "") -> None:
        self.name = name
        self._help = help
        self._labels = labels
        self._bounds = bounds
        # Six digits, as TensorFlow Serving writes bounds: 58.32, 1.47827e+09.
        self._bound_texts = [*(f"{bound:g}" for bound in bounds), "+Inf"]
        # One list a label set: a count for each bucket and, last, the sum.
        self._series: dict[tuple[str, ...], list[float]] = {}
        self._lock = threading.Lock()

    def observe(self, values: tuple[str, ...], value: float) -> None:
        # A value on a bound belongs below it, as Prometheus' "le" says.
        bucket = bisect_left(self._bounds, value)
        with self._lock:
            series = self._series.get(values)
            if series is None:
                if len(self._series) >= MAX_LABEL_SETS:
                    values = (OTHER,) * len(values)
                series = self._series.setdefault(values, [0] * (len(self._bounds) + 1) + [0.0])
            series[bucket] += 1
            series[-1] += value

    def write(self, lines: list[str]) -> None:
        with self._lock:
            copies = sorted((values, series.copy()) for values, series in self._series.items())
        if self._help:
            lines.append(f"# HELP {self.name} {self._help}")
        lines.append(f"# TYPE {self.name} histogram")
        for values, series in copies:
            labels = label_text(dict(zip(self._labels, values, strict=True)))
            for bound, count in zip(self._bound_texts, accumulate(series[:-1]), strict=True):
                lines.append(f'{self.name}_bucket{{{labels},le="{bound}"}} {count}')
            # In full. TensorFlow Serving writes six digits, and after a million requests its sum stands still.
            lines.append(f"{self.name}_sum{{{labels}}} {number_text(series[-1])}")
            lines.append(f"{self.name}_count{{{labels}}} {sum(series[:-1])}")


class _Reading:
    """A metric whose values are kept elsewhere."""

    def __init__(self, name: str, help: str, kind: str, read: Callable[[], Reading]) -> None:
        self.name = name
        self._help = " ".join(help.split()).replace("\\", r"\\")
        self._kind = kind
        self._read = read
        self._failed = False

    def write(self, lines: list[str]) -> None:
        lines.append(f"# HELP {self.name} {self._help}")
        lines.append(f"# TYPE {self.name} {self._kind}")
        try:
            values = list(self._read())
        # Whatever one part of the server trips over, the numbers of the others are what one looks for then.
        except Exception:
            if not self._failed:
                logger.exception("metric %s cannot be read; it is left out", self.name)
            self._failed = True
            return
        self._failed = False
        for labels, value in values[:MAX_LABEL_SETS]:
            braces = f"{{{label_text(labels)}}}" if labels else ""
            lines.append(f"{self.name}{braces} {number_text(value)}")


def label_text(labels: Mapping[str, str]) -> str:
    r"""Labels as they stand between the braces, quotes, backslashes and line ends escaped.

    Example:
        >>> label_text({"model_name": 'a"b'})
        'model_name="a\\"b"'
    """
    return ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())


def number_text(value: float) -> str:
    """A number in full, whole ones without a point: `3`, `0.5`, `1e+300`, `+Inf`, `-Inf`, `NaN`."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
