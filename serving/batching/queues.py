"""Queues of requests for one call of one model: TensorFlow Serving's, and ours that adapts itself.

Both live on the event loop alone. A queue says which requests run next; threads and time are the runner's.
"""

from __future__ import annotations

import math
import os
from collections import deque

from serving.batching.batch import Task
from serving.batching.parameters import BatchingParameters
from serving.batching.profile import Profile
from serving.batching.sharing import SharingChoice
from serving.errors import Code, ServingError

# Below this a second thread costs more, in waiting for Python's lock, than it gains.
_SHORT_RUN_SECONDS = 0.002
# Runs that cannot be shared wait for nobody: as many at once as TensorFlow Serving has threads for requests.
_APART_AT_ONCE = max(16, 4 * (os.cpu_count() or 1))
_SHARED_AT_ONCE = max(2, os.cpu_count() or 1)
# A run that computes so briefly is made on the event loop itself: handing it to a thread and back takes longer. It must
# have been so often, with no less data; what is delayed now and then counts against it, and a long run for good.
_INSTANT_SECONDS, _DELAYED_SECONDS, _LONG_SECONDS = 0.001, 0.005, 0.05
_INSTANT_RUNS, _MOST_INSTANT_RUNS = 50, 500
_DELAY_PENALTY, _LONG_RUN_PENALTY = 10, 100_000
# So few requests are always let in: what is known of a model's speed may be wrong at first.
_ALWAYS_WELCOME = 16


class ParameterQueue:
    """Batches as TensorFlow Serving forms them with `--enable_batching`.

    Requests fill the last batch; one that does not fit opens the next. A batch may run when it is full, or its first
    request has waited for the timeout.
    """

    def __init__(self, parameters: BatchingParameters) -> None:
        """An empty queue."""
        self._parameters = parameters
        self._batches: deque[list[Task]] = deque()
        self._open_rows = 0

    def offer(self, task: Task) -> None:
        """Queues a request.

        Raises:
            ServingError: INVALID_ARGUMENT, it is larger than a batch; UNAVAILABLE, the queue is full.
        """
        limit = self._parameters.max_batch_size
        if task.rows > limit:
            raise ServingError(
                Code.INVALID_ARGUMENT, f"Task size {task.rows} is larger than maximum input batch size {limit}"
            )
        if not self._batches or self._open_rows + task.rows > limit:
            if len(self._batches) >= self._parameters.max_enqueued_batches:
                raise ServingError(
                    Code.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is full; currently "
                    f"{len(self._batches)} batches enqueued and max_enqueued_batches is "
                    f"{self._parameters.max_enqueued_batches}",
                )
            self._batches.append([])
            self._open_rows = 0
        self._batches[-1].append(task)
        self._open_rows += task.rows

    def ready_in(self, now: float) -> float | None:
        """Seconds until a batch may run, 0 = now; None = nothing waits."""
        if not self._batches:
            return None
        if len(self._batches) > 1 or self._open_rows >= self._parameters.max_batch_size:
            return 0.0
        return max(0.0, self._batches[0][0].queued + self._parameters.timeout_seconds - now)

    def take(self) -> list[Task]:
        """The next batch, without the requests that nobody waits for any more."""
        batch = self._batches.popleft()
        return [task for task in batch if task.wanted]

    def forget(self, task: Task) -> None:
        """Frees a request that nobody waits for any more."""
        for batch in self._batches:
            if task in batch:
                batch.remove(task)
                return

    def __len__(self) -> int:
        """Requests that wait."""
        return sum(map(len, self._batches))


class AdaptiveQueue:
    """Requests that wait while their model is busy share its next run; an idle model is never waited for.

    Batches grow with the load by themselves: nothing is delayed to fill one. How many rows share a run follows from how
    long rows have taken. Only calls whose inputs and outputs all have a free first dimension are shared, and only
    after a first shared run gave what separate runs gave.

    Attributes:
        running: Runs under way.
        shareable: Whether requests may share a run; None = still to be tried.
        scheduled: Whether the runner will look at the queue in the loop's next turn.
    """

    # How often the runner looks, finding nothing new, before it starts what has gathered. gRPC's requests come one in a
    # turn of the loop, so a run that started at once would never be shared.
    _PATIENCE = 8
    # A lone request is not kept waiting; but now and then one is, to find out whether it is alone.
    _CURIOUS_EVERY = 16
    _CROWD, _CROWD_DECAY = 1.5, 0.9

    def __init__(self, shareable: bool, max_wait_seconds: float, bounded: bool = True) -> None:
        """An empty queue.

        Args:
            shareable: Whether the signature allows shared runs.
            max_wait_seconds: Requests that would wait longer are refused.
            bounded: Whether the size of the inputs bounds the work. A whole number may be a count of steps.
        """
        self._bounded = bounded
        self.running = 0
        self.scheduled = False
        self.shareable: bool | None = None if shareable else False
        self._max_wait_seconds = max_wait_seconds
        self._waiting: deque[Task] = deque()
        self._profile = Profile()
        self._choice = SharingChoice()
        self._waiting_rows = 0
        self._seen = self._quiet = 0
        self._crowd = 1.0  # the requests that were there when runs began; falls slowly
        self._takes = 0
        self._short_runs = 0
        self._short_bytes = 0

    def offer(self, task: Task, model: str, now: float) -> None:
        """Queues a request.

        Args:
            task: The request.
            model: The model's name, for the error.
            now: `time.monotonic()`.

        Raises:
            ServingError: UNAVAILABLE, it would wait too long.
        """
        if len(self._waiting) >= _ALWAYS_WELCOME and self._profile.is_trusted:
            wait = self.expected_wait()
            patience = self._max_wait_seconds
            if task.deadline is not None:
                patience = min(patience, task.deadline - now)
            if wait > patience:
                raise ServingError(
                    Code.UNAVAILABLE,
                    f"The queue of model {model} is full: {len(self._waiting)} requests wait, about {wait:.1f} seconds "
                    "of work; try again later",
                )
        self._waiting.append(task)
        self._waiting_rows += task.rows

    def expected_wait(self) -> float:
        """Seconds until a request that came now would run, as far as earlier runs tell."""
        if self.shareable is False:
            return len(self._waiting) * self._profile.seconds(1) / min(_APART_AT_ONCE, os.cpu_count() or 1)
        rows = self._profile.shared_rows()
        return math.ceil(self._waiting_rows / rows) * self._profile.seconds(min(rows, self._waiting_rows)) / self._limit

    @property
    def free(self) -> bool:
        """Whether something waits and another run may start."""
        return bool(self._waiting) and self.running < self._limit

    @property
    def _limit(self) -> int:
        if self.shareable is False:
            return _APART_AT_ONCE
        return 1 if self._profile.runs > 1 and self._profile.seconds(1) < _SHORT_RUN_SECONDS else _SHARED_AT_ONCE

    @property
    def is_calm(self) -> bool:
        """Whether a request that is alone may run at once: as far as is known, no other is about to come."""
        alone = len(self._waiting) == 1 and not self.running and self._crowd <= self._CROWD
        return alone and self._takes % self._CURIOUS_EVERY != 0

    def gathers(self) -> bool:
        """Whether to look again in the loop's next turn, because more may come."""
        waiting = len(self._waiting)
        self._quiet = 0 if waiting > self._seen else self._quiet + 1
        self._seen = waiting
        if self._quiet <= self._PATIENCE and not self.is_calm:
            return True
        self._seen = self._quiet = 0
        return False

    def take(self) -> list[Task]:
        """The requests of the next run: the first that waits, and those of the same shapes that fit."""
        tasks: list[Task] = []
        while self._waiting and not tasks:
            first = self._pop()
            if first.wanted:
                tasks.append(first)
                if self._waiting and self.shareable is not False and (self.shareable is None or self._choice.share()):
                    tasks += self._companions(first)
        self._takes += 1
        self._crowd = max(len(tasks) + len(self._waiting), self._CROWD_DECAY * self._crowd)
        for task in tasks:
            task.crowded = bool(self._waiting) or self.running > 0 or len(tasks) > 1
        return tasks

    def _pop(self) -> Task:
        task = self._waiting.popleft()
        self._waiting_rows -= task.rows
        return task

    def _companions(self, first: Task) -> list[Task]:
        # Until it is proved that runs may be shared, two requests are enough to prove it on.
        rows, limit = first.rows, self._profile.shared_rows()
        most = 1 if self.shareable is None else limit
        companions: list[Task] = []
        left: deque[Task] = deque()
        while self._waiting:
            task = self._pop()
            if not task.wanted:
                continue
            fits = rows + task.rows <= limit and len(companions) < most
            if fits and task.shapes == first.shapes and task.is_as_long_as(first):
                companions.append(task)
                rows += task.rows
            else:
                left.append(task)
        self._waiting = left
        self._waiting_rows = sum(task.rows for task in left)
        return companions

    def is_instant(self, tasks: list[Task]) -> bool:
        """Whether a run of these requests is known to be shorter than its way to a thread and back."""
        if not self._bounded or self._short_runs < _INSTANT_RUNS or (self.shareable is None and len(tasks) > 1):
            return False
        return sum(task.size for task in tasks) <= 2 * self._short_bytes

    def note_run(self, tasks: list[Task], seconds: float, own_seconds: float, running: int) -> None:
        """Learns from a run.

        Args:
            tasks: What ran together.
            seconds: How long it took.
            own_seconds: For how long of that its thread computed.
            running: Runs of this queue that were under way, itself among them.
        """
        rows = sum(task.rows for task in tasks)
        self._profile.note(rows, seconds)
        if self._profile.runs == 1:
            return  # it pruned and optimised the graph, and says nothing of the next
        if tasks[0].crowded:
            self._choice.note(len(tasks) > 1, rows, seconds, running)
        if seconds > _LONG_SECONDS:
            self._short_runs -= _LONG_RUN_PENALTY
        elif own_seconds > _INSTANT_SECONDS or seconds > _DELAYED_SECONDS:
            self._short_runs = max(self._short_runs - _DELAY_PENALTY, min(self._short_runs, 0))
        elif self.shareable is not False:
            self._short_runs = min(_MOST_INSTANT_RUNS, self._short_runs + 1)
            self._short_bytes = max(self._short_bytes, sum(task.size for task in tasks))

    def forget(self, task: Task) -> None:
        """Frees a request that nobody waits for any more: it counts for nothing, and its inputs take no memory."""
        if task in self._waiting:
            self._waiting.remove(task)
            self._waiting_rows -= task.rows

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiting)
