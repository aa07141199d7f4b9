"""Runs graphs in threads for the event loop, requests together where that helps."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from serving.batching.batch import Outcome, Task, agree, run_apart, run_together
from serving.batching.parameters import BatchingParameters
from serving.batching.queues import AdaptiveQueue, ParameterQueue
from serving.errors import Code, ServingError
from serving.inference.call import GraphRun
from serving.servable import Servable

logger = logging.getLogger(__name__)

_MAX_THREADS = 64
# Shared runs of a call are compared with separate ones so often before they are trusted.
_PROOFS = 3
_Queue = ParameterQueue | AdaptiveQueue
# (feeds, fetches): requests with the same may share a run.
_Key = tuple[tuple[str, ...], tuple[str, ...]]
_ALONE = BatchingParameters()


class Runner:
    """The only way from a request on the event loop to a graph.

    Example:
        >>> runner = Runner(on_batch=metrics.batch)
        >>> with manager.lease("dense") as servable:
        ...     outputs = await runner.run(servable, run, deadline=None)
    """

    def __init__(
        self,
        parameters: BatchingParameters | None = None,
        adaptive: bool = True,
        max_queue_seconds: float = 5.0,
        on_batch: Callable[[str, int, list[float]], None] = lambda model, rows, queued_microseconds: None,
    ) -> None:
        """Starts no thread yet.

        Args:
            parameters: TensorFlow Serving's batching, for every model; None = ours.
            adaptive: Without parameters: whether requests that wait for a busy model share its next run.
            max_queue_seconds: Without parameters: requests that would wait longer are refused.
            on_batch: Told of each run: model, rows, microseconds that each request was queued.
        """
        self._parameters = parameters
        self._adaptive = adaptive
        self._max_queue_seconds = max_queue_seconds
        self._on_batch = on_batch
        # Keyed by the loaded version: its queues go when it goes.
        self._queues: weakref.WeakKeyDictionary[Servable, dict[_Key, _Queue]] = weakref.WeakKeyDictionary()
        self._threads = ThreadPoolExecutor(
            max(_MAX_THREADS, parameters.num_threads if parameters else 0), thread_name_prefix="graph"
        )
        self._running = 0
        self._proofs: weakref.WeakKeyDictionary[AdaptiveQueue, int] = weakref.WeakKeyDictionary()
        self._timer: asyncio.TimerHandle | None = None

    async def run(
        self, servable: Servable, run: GraphRun, deadline: float | None = None, facts: dict[str, Any] | None = None
    ) -> list[Any]:
        """Runs a call of a graph, when its turn has come.

        Args:
            servable: The version, leased by the caller until this returns.
            run: What to feed and fetch.
            deadline: When the outputs are of no more use, in `time.monotonic()` seconds; None = never.
            facts: Filled with `queued_ms` and `batch_rows`, for the access log; None = not needed.

        Returns:
            One array for each of `run.fetches`.

        Raises:
            ServingError: What an op said; UNAVAILABLE or INVALID_ARGUMENT from the queue; DEADLINE_EXCEEDED.
        """
        loop = asyncio.get_running_loop()
        task = Task(run.values, 1, loop.create_future(), deadline, time.perf_counter())
        queue = self._queue(servable, run, task)
        timer = None
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise _too_late(servable)
            timer = loop.call_later(left, _expire, task, servable)
        try:
            if isinstance(queue, ParameterQueue):
                queue.offer(task)
                self._start_ready_batches()
            else:
                queue.offer(task, servable.name, time.monotonic())
                key = (run.feeds, run.fetches)
                if queue.is_calm:
                    self._start_adaptive(servable, key, queue)
                elif not queue.scheduled:
                    # Not at once: requests that come in the next turns of the loop can then share the run.
                    queue.scheduled = True
                    loop.call_soon(self._start_adaptive, servable, key, queue)
            return await task.future
        finally:
            if timer is not None:
                timer.cancel()
            if not task.started:
                queue.forget(task)
            if facts is not None and task.started:
                facts["queued_ms"] = round((task.started - task.queued) * 1e3, 3)
                facts["batch_rows"] = task.batch_rows

    def queue_depths(self) -> Iterator[tuple[dict[str, str], float]]:
        """How many requests wait, by model: a reading for the metrics."""
        depths: dict[str, int] = {}
        try:
            found = [(servable.name, list(queues.values())) for servable, queues in self._queues.items()]
        except RuntimeError:
            return  # the event loop has added a queue meanwhile; the next reading tells
        for name, waiting in found:
            depths[name] = depths.get(name, 0) + sum(map(len, waiting))
        for name, depth in depths.items():
            yield {"model_name": name}, depth

    def close(self) -> None:
        """Lets the threads end when they are done."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _queue(self, servable: Servable, run: GraphRun, task: Task) -> _Queue:
        """The queue for a call; also says how large the task is."""
        if self._parameters is not None:
            task.rows = _common_rows(run)
        queues = self._queues.get(servable)
        if queues is None:
            queues = self._queues[servable] = {}
        key = (run.feeds, run.fetches)
        queue = queues.get(key)
        if queue is None:
            if len(queues) > 1000:  # a client may ask for any set of outputs: what is idle is forgotten
                for idle in [old for old, waiting in queues.items() if not waiting and not _is_running(waiting)]:
                    del queues[idle]
            queue = queues[key] = self._new_queue(servable, run)
        if isinstance(queue, AdaptiveQueue) and queue.shareable is not False:
            rows = {len(value) for value in run.values if value.ndim}
            # Inputs that do not fit together get the graph's own error, and spoil nobody else's run.
            fits = len(rows) == 1 and all(value.ndim for value in run.values)
            task.rows = rows.pop() if fits else 1
            task.shapes = tuple(value.shape[1:] for value in run.values) if fits and task.rows else ((id(task),),)
        return queue

    def _new_queue(self, servable: Servable, run: GraphRun) -> _Queue:
        if self._parameters is not None:
            return ParameterQueue(self._parameters)
        shareable = self._adaptive and is_batch_major(servable.model.signatures, run)
        bounded = all(value.dtype.kind in "fVOb" or value.dtype == np.uint8 for value in run.values)
        return AdaptiveQueue(shareable, self._max_queue_seconds, bounded)

    # Ours: a queue starts its own runs.

    def _start_adaptive(self, servable: Servable, key: _Key, queue: AdaptiveQueue) -> None:
        if queue.gathers():
            asyncio.get_running_loop().call_soon(self._start_adaptive, servable, key, queue)
            return
        queue.scheduled = False
        while queue.free:
            tasks = queue.take()
            if not tasks:
                return
            queue.running += 1
            self._start(servable, key, queue, tasks)

    # TensorFlow Serving's: all queues share `num_threads`, and batches wait for their timeout.

    def _start_ready_batches(self) -> None:
        assert self._parameters is not None
        now = time.perf_counter()
        next_in: float | None = None
        for servable, queues in list(self._queues.items()):
            for key, queue in list(queues.items()):
                assert isinstance(queue, ParameterQueue)
                while self._running < self._parameters.num_threads and (ready_in := queue.ready_in(now)) is not None:
                    if ready_in > 0:
                        next_in = ready_in if next_in is None else min(next_in, ready_in)
                        break
                    tasks = queue.take()
                    if tasks:
                        self._start(servable, key, queue, tasks)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if next_in is not None:
            self._timer = asyncio.get_running_loop().call_later(next_in, self._start_ready_batches)

    # Both.

    def _start(self, servable: Servable, key: _Key, queue: _Queue, tasks: list[Task]) -> None:
        self._running += 1
        servable.stay()  # a client that goes away gives its lease back while the graph still runs for it
        now, rows = time.perf_counter(), sum(task.rows for task in tasks)
        for task in tasks:
            task.started, task.batch_rows = now, rows
        self._on_batch(servable.name, rows, [(now - task.queued) * 1e6 for task in tasks])
        if isinstance(queue, AdaptiveQueue) and queue.is_instant(tasks):
            watch = _Stopwatch()
            outcomes = self._outcomes(servable.model, key, queue, tasks)
            self._finish(servable, key, queue, tasks, outcomes, watch.read())
            return
        self._threads.submit(self._run_in_thread, asyncio.get_running_loop(), servable, key, queue, tasks)

    def _run_in_thread(
        self, loop: asyncio.AbstractEventLoop, servable: Servable, key: _Key, queue: _Queue, tasks: list[Task]
    ) -> None:
        is_proof = isinstance(queue, AdaptiveQueue) and queue.shareable is None and len(tasks) > 1
        watch = _Stopwatch()
        outcomes = self._outcomes(servable.model, key, queue, tasks)
        # A run made twice says nothing of how long one takes.
        times = None if is_proof else watch.read()
        try:
            loop.call_soon_threadsafe(self._finish, servable, key, queue, tasks, outcomes, times)
        except RuntimeError:  # the loop has ended meanwhile: nobody waits any more
            servable.leave()

    def _outcomes(self, model: Any, key: _Key, queue: _Queue, tasks: list[Task]) -> Sequence[Outcome]:
        try:
            return self._run_tasks(model, key, queue, tasks)
        except BaseException as error:
            # Whatever happened, the requests must get an answer; the boundary logs what is no ServingError. A future
            # does not take a StopIteration.
            answer = RuntimeError(repr(error)) if isinstance(error, StopIteration) else error
            return [answer] * len(tasks)

    def _run_tasks(self, model: Any, key: _Key, queue: _Queue, tasks: list[Task]) -> Sequence[Outcome]:
        if isinstance(queue, ParameterQueue):
            assert self._parameters is not None
            return run_together(model, *key, tasks, self._parameters)
        if len(tasks) == 1:
            return run_apart(model, *key, tasks)
        together = run_together(model, *key, tasks, _ALONE)
        if queue.shareable:
            return together
        return self._prove(model, key, queue, tasks, together)

    def _prove(
        self, model: Any, key: _Key, queue: AdaptiveQueue, tasks: list[Task], together: Sequence[Outcome]
    ) -> Sequence[Outcome]:
        """Compares a shared run with separate ones; the separate ones are the answers."""
        apart = run_apart(model, *key, tasks)
        if any(isinstance(outcome, BaseException) for outcome in apart):
            return apart  # says nothing of sharing
        if not agree(together, apart):
            if queue.shareable is not False:  # two proofs may be under way
                queue.shareable = False
                logger.warning(
                    "requests for %s are not run together: a shared run gave other results than separate ones", key[1]
                )
            return apart
        proofs = self._proofs[queue] = self._proofs.get(queue, 0) + 1
        if proofs >= _PROOFS and queue.shareable is None:
            queue.shareable = True
        return apart

    def _finish(
        self,
        servable: Servable,
        key: _Key,
        queue: _Queue,
        tasks: list[Task],
        outcomes: Sequence[Outcome],
        times: tuple[float, float] | None,
    ) -> None:
        servable.leave()
        self._running -= 1
        for task, outcome in zip(tasks, outcomes, strict=True):
            if not task.wanted:
                continue
            if isinstance(outcome, BaseException):
                task.future.set_exception(outcome)
            else:
                task.future.set_result(outcome)
        if isinstance(queue, AdaptiveQueue):
            running = queue.running
            queue.running -= 1
            if times is not None:
                queue.note_run(tasks, *times, running)
            if queue.free and not queue.scheduled:
                queue.scheduled = True
                asyncio.get_running_loop().call_soon(self._start_adaptive, servable, key, queue)
        else:
            self._start_ready_batches()


class _Stopwatch:
    """Seconds that went by, and those of them that this thread computed: the others it waited, perhaps for Python."""

    def __init__(self) -> None:
        self._wall, self._own = time.perf_counter(), time.thread_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._wall, time.thread_time() - self._own


def is_batch_major(signatures: Any, run: GraphRun) -> bool:
    """Whether every tensor of a call is declared with a free first dimension, which then is the batch.

    Args:
        signatures: `{signature key: SignatureDef}` of the model.
        run: The call.
    """
    declared = {}
    for signature in signatures.values():
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            declared[info.name] = info.tensor_shape
    for name in (*run.feeds, *run.fetches):
        shape = declared.get(name)
        if shape is None or shape.unknown_rank or not shape.dim or shape.dim[0].size != -1:
            return False
    return bool(run.feeds)


def _common_rows(run: GraphRun) -> int:
    """The first dimension of all inputs, as TensorFlow Serving's batching requires it."""
    if any(value.ndim == 0 for value in run.values):
        raise ServingError(Code.INVALID_ARGUMENT, "Batching Run() input tensors must have at least one dimension")
    rows = {len(value) for value in run.values}
    if len(rows) > 1:
        raise ServingError(Code.INVALID_ARGUMENT, "Batching Run() input tensors must have equal 0th-dimension size")
    return rows.pop() if rows else 1


def _is_running(queue: _Queue) -> bool:
    return isinstance(queue, AdaptiveQueue) and queue.running > 0


def _too_late(servable: Servable) -> ServingError:
    return ServingError(Code.DEADLINE_EXCEEDED, f"Deadline exceeded while waiting for model {servable.name}")


def _expire(task: Task, servable: Servable) -> None:
    if task.wanted:
        task.future.set_exception(_too_late(servable))
