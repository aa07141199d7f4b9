"""A batch: requests of the same kind, run as one call of the graph and taken apart again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.batching.parameters import BatchingParameters
from serving.errors import Code, ServingError

_LONGEST_TEXT = 4096
_SAME_LENGTH_BYTES = 12
# What one request gets: its outputs, or the error that is its answer.
Outcome = list[np.ndarray] | BaseException

_DIFFERENT_SHAPES = (
    "Tensors with name '{}' from different tasks have different shapes and padding is turned off. "
    "Set pad_variable_length_inputs to true, or ensure that all tensors with the same name "
    "have equal dimensions starting with the first dim."
)


@dataclass(eq=False, slots=True)
class Task:
    """A request that waits for its model.

    Attributes:
        values: One array for each input, `(rows, …)`.
        rows: Their common first dimension; 1 where the inputs have none.
        future: Where the event loop waits for the outputs.
        deadline: `time.monotonic()` seconds after which nobody wants them; None = never.
        queued: When it was queued, in `time.perf_counter()` seconds.
        started: When its batch began to run.
        batch_rows: Rows of that batch, its own among them.
        shapes: The inputs' shapes without their first dimension: tasks with the same can be batched as they are.
        crowded: Whether others waited or ran when its run began.
    """

    values: list[np.ndarray]
    rows: int
    future: asyncio.Future[list[np.ndarray]]
    deadline: float | None
    queued: float
    started: float = 0.0
    batch_rows: int = 0
    shapes: tuple[tuple[int, ...], ...] = field(default=())
    crowded: bool = False
    _size: int = -1

    @property
    def size(self) -> int:
        """Bytes of the inputs, those of texts and encoded images among them."""
        if self._size < 0:
            self._size = sum(
                sum(map(len, value.ravel().tolist())) if value.dtype == object else value.nbytes
                for value in self.values
            )
        return self._size

    def is_as_long_as(self, other: Task) -> bool:
        """Whether texts are of about the length of another request's: a graph pads all to the longest of a run."""
        if not any(value.dtype == object for value in self.values):
            return True
        own, others = self.size / max(1, self.rows), other.size / max(1, other.rows)
        longer = max(own, others)
        # What is longer than texts are is an encoded image or a record, and not padded.
        return longer > _LONGEST_TEXT or longer - min(own, others) <= _SAME_LENGTH_BYTES + longer / 4

    @property
    def wanted(self) -> bool:
        """False once the client has gone or its deadline has passed."""
        return not self.future.done()


def run_together(
    model: Any, feeds: tuple[str, ...], fetches: tuple[str, ...], tasks: Sequence[Task], parameters: BatchingParameters
) -> list[Outcome]:
    """Runs tasks as one batch; where that fails, each alone, so that a bad request spoils no other's answer.

    Args:
        model: The `LoadedModel`.
        feeds: Names of the tensors to feed.
        fetches: Names of the tensors to compute.
        tasks: At least one.
        parameters: Padding, allowed sizes, splitting.

    Returns:
        An outcome for each task, in their order.
    """
    try:
        merged = [
            _merge(feeds[index], [task.values[index] for task in tasks], parameters) for index in range(len(feeds))
        ]
        results = _run_rows(model, feeds, fetches, merged, sum(task.rows for task in tasks), parameters)
        return _split(results, tasks)
    except ServingError as error:
        if len(tasks) == 1 or error.code == Code.FAILED_PRECONDITION:
            return [error] * len(tasks)
        return run_apart(model, feeds, fetches, tasks)


def run_apart(model: Any, feeds: tuple[str, ...], fetches: tuple[str, ...], tasks: Sequence[Task]) -> list[Outcome]:
    """Runs each task by itself, as they came; arguments and result as for `run_together`."""
    outcomes: list[Outcome] = []
    for task in tasks:
        try:
            outcomes.append(model.run(feeds, fetches, task.values))
        except ServingError as error:
            outcomes.append(error)
    return outcomes


def agree(together: Sequence[Outcome], apart: Sequence[Outcome]) -> bool:
    """Whether a shared run gave each request what a run of its own gives, to what batch sizes change in float sums."""
    for one, other in zip(together, apart, strict=True):
        if isinstance(one, BaseException) or isinstance(other, BaseException):
            return False
        for left, right in zip(one, other, strict=True):
            left, right = np.asarray(left), np.asarray(right)
            if left.shape != right.shape or left.dtype != right.dtype:
                return False
            if left.dtype.kind in "fcV":  # V: bfloat16 and its like, which numpy does not know
                tolerance = 1e-4 if left.dtype.itemsize >= 4 else 3e-2
                kind = np.complex128 if left.dtype.kind == "c" else np.float64
                if not np.allclose(left.astype(kind), right.astype(kind), tolerance, tolerance, equal_nan=True):
                    return False
            elif not np.array_equal(left, right):
                return False
    return True


def _merge(name: str, arrays: Sequence[np.ndarray], parameters: BatchingParameters) -> np.ndarray:
    if any(array.shape[1:] != arrays[0].shape[1:] for array in arrays):
        if not parameters.pad_variable_length or len({array.ndim for array in arrays}) > 1:
            raise ServingError(Code.FAILED_PRECONDITION, _DIFFERENT_SHAPES.format(name))
        sizes = np.max([array.shape for array in arrays], axis=0)
        arrays = [_filled(array, sizes) for array in arrays]
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _filled(array: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The array, with copies of its first element behind it in every dimension but the first, as TensorFlow Serving."""
    if array.shape[1:] == tuple(sizes[1:]):
        return array
    if not array.size:
        raise ServingError(Code.INVALID_ARGUMENT, "Got empty tensor in batch of non-empty tensors.")
    filled = np.full((len(array), *sizes[1:]), array.flat[0], array.dtype)
    filled[tuple(map(slice, array.shape))] = array
    return filled


def _run_rows(
    model: Any,
    feeds: tuple[str, ...],
    fetches: tuple[str, ...],
    values: list[np.ndarray],
    rows: int,
    parameters: BatchingParameters,
) -> list[np.ndarray]:
    """Runs a merged batch, in parts where it is larger than one run may be, padded to an allowed size."""
    parts = []
    for start in range(0, rows, parameters.largest_run) or [0]:
        part = [value[start : start + parameters.largest_run] for value in values]
        missing = parameters.padded_size(len(part[0])) - len(part[0])
        if missing:
            # Copies of a row: the graph is known to take it, which it may not of zeros.
            part = [np.concatenate([value, np.repeat(value[:1], missing, axis=0)]) for value in part]
        expected = len(part[0])
        results = [np.asarray(result) for result in model.run(feeds, fetches, part)]
        for result in results:
            if result.ndim == 0:
                raise ServingError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
            if len(result) != expected:
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the "
                    "input tensors",
                )
        parts.append([result[: expected - missing] for result in results])
    return parts[0] if len(parts) == 1 else [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]


def _split(results: list[np.ndarray], tasks: Sequence[Task]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    start = 0
    for task in tasks:
        outcomes.append([result[start : start + task.rows] for result in results])
        start += task.rows
    return outcomes
