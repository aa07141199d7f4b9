"""Load on a server, and what came of it: closed loop (so many clients) or open loop (so many requests a second)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import uvloop

from serving.load_test.connection import REFUSED, Connection

_CHECK_SECONDS = 0.05
# A server that is not there is not asked again at once: the attempts would take the processor from one that starts.
_REFUSED_SECONDS = 0.02
NOT_SENT = "not sent: every client was busy"
NO_ANSWER = "no answer in time"


class Target(Protocol):
    """What is measured: `GrpcTarget` or `HttpTarget`."""

    def connection(self) -> Connection:
        """A new connection, for one client."""


@dataclass(frozen=True)
class Result:
    """What a load came to.

    Attributes:
        clients: How many there were.
        seconds: How long was measured, without the warm-up.
        requests: Good answers that arrived in that time.
        errors: Other outcomes of requests sent (or, in open loop, planned) in that time, by kind: gRPC's code, `HTTP
            503`, or what happened to the connection.
        error_texts: What was said first, for each kind.
        latencies_ms: Of the good answers to requests sent in that time, in the order of their arrival.
        error_latencies_ms: Of the errors.
        generator_load: The part of one processor core that the load generator itself took, with the warm-up; near 1
            it, and not the server, is what was measured.
    """

    clients: int
    seconds: float
    requests: int
    errors: Counter[str]
    error_texts: dict[str, str]
    latencies_ms: np.ndarray
    error_latencies_ms: np.ndarray
    generator_load: float

    @property
    def requests_per_second(self) -> float:
        """Good answers a second."""
        return self.requests / self.seconds

    def percentile(self, percent: float) -> float:
        """A percentile of the latencies, in milliseconds; NaN where nothing was answered."""
        return float(np.percentile(self.latencies_ms, percent)) if len(self.latencies_ms) else float("nan")


def measure(
    target: Target,
    make_request: Callable[[], bytes],
    clients: int,
    seconds: float,
    *,
    rate: float | None = None,
    warm_up: float = 1.0,
    timeout: float = 30.0,
    stop: threading.Event | None = None,
) -> Result:
    """Puts load on a server.

    Args:
        target: The server.
        make_request: Gives the next request, e.g. `lambda: request` or `itertools.cycle(requests).__next__`.
        clients: Connections; each has at most one request under way.
        seconds: How long to measure.
        rate: None = closed loop: every client sends its next request when it has its answer. A number = open loop: so
            many requests a second are planned, and a latency counts from the planned time, so that a server that
            stalls does not hide how many requests would have waited.
        warm_up: Seconds of the same load before, which are not counted.
        timeout: Seconds after which an answer is no longer waited for.
        stop: Ends the load early when set (from another thread).

    Returns:
        The counts and latencies.

    Example:
        >>> request = predict_request.SerializeToString()
        >>> result = measure(GrpcTarget("127.0.0.1:8500"), lambda: request, clients=8, seconds=5)
        >>> result.requests_per_second, result.percentile(99), result.errors
        (5210.4, 2.9, Counter())
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Load(target, make_request, clients, rate, timeout).run(seconds, warm_up, stop))


class _Client:
    """One connection after the other, and the request that is under way."""

    __slots__ = ("busy", "connection", "load", "sent", "started")

    def __init__(self, load: _Load) -> None:
        self.load = load
        self.connection = load.target.connection()
        self.started = self.sent = 0.0
        self.busy = False

    def start(self, started: float) -> None:
        self.started, self.sent, self.busy = started, time.perf_counter(), True
        if self.connection.closed:
            self.connection = self.load.target.connection()
        self.connection.send(self.load.make_request(), self.done)

    def done(self, error: str | None, text: str) -> None:
        self.busy = False
        self.load.record(self.started, error, text)
        if error == REFUSED:
            asyncio.get_running_loop().call_later(_REFUSED_SECONDS, self.load.next, self)
        else:
            self.load.next(self)


class _Load:
    def __init__(
        self, target: Target, make_request: Callable[[], bytes], clients: int, rate: float | None, timeout: float
    ) -> None:
        self.target = target
        self.make_request = make_request
        self.rate = rate
        self.timeout = timeout
        self.clients = [_Client(self) for _ in range(clients)]
        self.idle: list[_Client] = []
        self.planned: deque[float] = deque()  # open loop: arrivals that wait for a client
        self.begin = self.end = 0.0
        self.answered = 0
        self.latencies: list[float] = []
        self.error_latencies: list[float] = []
        self.errors: Counter[str] = Counter()
        self.error_texts: dict[str, str] = {}

    async def run(self, seconds: float, warm_up: float, stop: threading.Event | None) -> Result:
        start, processor_start = time.perf_counter(), time.thread_time()
        self.begin, self.end = start + warm_up, start + warm_up + seconds
        arrivals = None
        if self.rate is None:
            for client in self.clients:
                client.start(time.perf_counter())
        else:
            self.idle = list(self.clients)
            # A thread sleeps to the microsecond; the loop's own timers count in milliseconds.
            arrivals = threading.Thread(target=self._plan, args=(start, asyncio.get_running_loop()), daemon=True)
            arrivals.start()
        while time.perf_counter() < self.end or any(client.busy for client in self.clients):
            await asyncio.sleep(_CHECK_SECONDS)
            if stop is not None and stop.is_set():
                self.end = min(self.end, time.perf_counter())
            self._give_up_late_ones()
        if arrivals is not None:
            await asyncio.to_thread(arrivals.join)
        self._count_what_was_not_sent()
        for client in self.clients:
            client.connection.give_up("")
        return Result(
            len(self.clients),
            max(self.end - self.begin, 1e-9),
            self.answered,
            self.errors,
            self.error_texts,
            np.array(self.latencies) * 1000,
            np.array(self.error_latencies) * 1000,
            (time.thread_time() - processor_start) / (time.perf_counter() - start),
        )

    def next(self, client: _Client) -> None:
        """What a client does that has its answer."""
        now = time.perf_counter()
        if now >= self.end:
            return
        if self.rate is None:
            client.start(now)
        elif self.planned:
            client.start(self.planned.popleft())
        else:
            self.idle.append(client)

    def record(self, started: float, error: str | None, text: str) -> None:
        now = time.perf_counter()
        if error is None:
            if self.begin <= now <= self.end:
                self.answered += 1
            if started >= self.begin:
                self.latencies.append(now - started)
        elif started >= self.begin:
            self.errors[error] += 1
            self.error_texts.setdefault(error, text)
            self.error_latencies.append(now - started)

    def arrive(self, times: list[float]) -> None:
        """Open loop: requests whose time has come."""
        self.planned.extend(times)
        while self.planned and self.idle:
            self.idle.pop().start(self.planned.popleft())

    def _plan(self, start: float, loop: asyncio.AbstractEventLoop) -> None:
        assert self.rate is not None
        number = 0
        while True:
            now, due = time.perf_counter(), []
            while (planned := start + number / self.rate) <= now and planned < self.end:
                due.append(planned)
                number += 1
            if due:
                loop.call_soon_threadsafe(self.arrive, due)
            if planned >= self.end:
                return
            # In short sleeps where the rate is low, so that an early end is seen.
            time.sleep(min(max(planned - time.perf_counter(), 0), _CHECK_SECONDS))

    def _give_up_late_ones(self) -> None:
        latest = time.perf_counter() - self.timeout
        for client in self.clients:
            if client.busy and client.sent < latest:
                client.connection.give_up(NO_ANSWER, f"none within {self.timeout:g} s")

    def _count_what_was_not_sent(self) -> None:
        if number := sum(planned >= self.begin for planned in self.planned):
            self.errors[NOT_SENT] += number
            self.error_texts[NOT_SENT] = "the server is slower than the rate; more clients can wait for it"
