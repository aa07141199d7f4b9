"""TensorFlow Serving's batching parameters, read and checked."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import UsageError
from serving.protos import read_text_message

_FLAG = "batching_parameters_file"


@dataclass(frozen=True)
class BatchingParameters:
    """How requests are batched with `--enable_batching`; the defaults are TensorFlow Serving's.

    Attributes:
        max_batch_size: Rows in a batch; a larger request is refused, or split where `split_large` says so.
        timeout_seconds: How long an unfilled batch waits for more.
        max_enqueued_batches: Batches that may wait for a thread; requests beyond them are refused.
        num_threads: Batches that run at once.
        allowed_sizes: Ascending; a batch is padded with copies of a row to the next of them. Empty = no padding.
        pad_variable_length: Fill tensors of different shapes up to the largest of the batch.
        split_large: Split a batch larger than `max_execution_size` rather than run or refuse it as a whole.
        max_execution_size: Rows that run at once where batches are split.
    """

    max_batch_size: int = 1000
    timeout_seconds: float = 0.0
    max_enqueued_batches: int = 10
    num_threads: int = os.cpu_count() or 1
    allowed_sizes: tuple[int, ...] = ()
    pad_variable_length: bool = False
    split_large: bool = False
    max_execution_size: int = 1000

    @property
    def largest_run(self) -> int:
        """The most rows that one run of the graph may have."""
        return self.max_execution_size if self.split_large else self.max_batch_size

    def padded_size(self, rows: int) -> int:
        """The rows of a batch after padding: the smallest allowed size that holds them."""
        return next((size for size in self.allowed_sizes if size >= rows), rows)


def read_batching_parameters(path: Path) -> BatchingParameters:
    """Reads `--batching_parameters_file`, a text `BatchingParameters`.

    Args:
        path: The file, e.g. with `max_batch_size { value: 32 } batch_timeout_micros { value: 1000 }`.

    Returns:
        The parameters; what the file leaves out has TensorFlow Serving's default.

    Raises:
        UsageError: The file cannot be read or parsed, or a value is out of range.
    """
    proto = read_text_message(path, "BatchingParameters", _FLAG)
    defaults = BatchingParameters()
    max_batch_size = _number(path, proto, "max_batch_size", defaults.max_batch_size, 1)
    split_large = proto.enable_large_batch_splitting.value
    parameters = BatchingParameters(
        max_batch_size=max_batch_size,
        timeout_seconds=_number(path, proto, "batch_timeout_micros", 0, 0) / 1e6,
        max_enqueued_batches=_number(path, proto, "max_enqueued_batches", defaults.max_enqueued_batches, 1),
        num_threads=_number(path, proto, "num_batch_threads", defaults.num_threads, 1),
        allowed_sizes=tuple(proto.allowed_batch_sizes),
        pad_variable_length=proto.pad_variable_length_inputs,
        split_large=split_large,
        max_execution_size=_number(path, proto, "max_execution_batch_size", max_batch_size, 1),
    )
    if split_large and parameters.max_execution_size > max_batch_size:
        raise _mistake(path, f"max_execution_batch_size {parameters.max_execution_size} exceeds max_batch_size")
    sizes = parameters.allowed_sizes
    if any(size < 1 for size in sizes) or any(after <= before for before, after in itertools.pairwise(sizes)):
        raise _mistake(
            path, f"allowed_batch_sizes must be positive and ascending, but are {', '.join(map(str, sizes))}"
        )
    if sizes and sizes[-1] != parameters.largest_run:
        name = "max_execution_batch_size" if split_large else "max_batch_size"
        raise _mistake(
            path,
            f"Last entry in allowed_batch_sizes must match {name}; last entry was {sizes[-1]}; "
            f"expected {parameters.largest_run}",
        )
    return parameters


def _number(path: Path, proto: Any, name: str, default: int, low: int) -> int:
    if not proto.HasField(name):
        return default
    value: int = getattr(proto, name).value
    if value < low:
        raise _mistake(path, f"{name} must be at least {low}, but is {value}")
    return value


def _mistake(path: Path, reason: str) -> UsageError:
    return UsageError(f"--{_FLAG}: {path}: {reason}")
