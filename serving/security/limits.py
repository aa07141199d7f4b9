"""How much one caller may ask for: a rate, and a number of requests at once.

Both cost a few additions a request, and are used on the event loop only, so they need no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from serving.errors import Code, ServingError


class TokenBucket:
    """Lets `rate` requests through a second on average, `burst` of them at once.

    Nothing runs in the background: the bucket is filled by the time that has passed when somebody asks.

    Example:
        >>> bucket = TokenBucket(rate=10.0, burst=2, now=0.0)
        >>> [bucket.take(0.0), bucket.take(0.0), bucket.take(0.0)]
        [0.0, 0.0, 0.1]
    """

    __slots__ = ("_filled", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: int, now: float) -> None:
        """A full bucket; `now` in seconds of a clock that never goes back."""
        self.rate = rate
        self.burst = burst
        self._level = float(burst)
        self._filled = now

    def take(self, now: float) -> float:
        """Takes one request's share.

        Args:
            now: The time, of the same clock.

        Returns:
            0.0 if it was there, otherwise the seconds until it will be; then nothing is taken.
        """
        self._level = min(float(self.burst), self._level + (now - self._filled) * self.rate)
        self._filled = now
        if self._level >= 1.0:
            self._level -= 1.0
            return 0.0
        return (1.0 - self._level) / self.rate

    def change(self, rate: float, burst: int, now: float) -> None:
        """Sets other limits from now on; what was used stays used."""
        self._level = min(float(burst), self._level + (now - self._filled) * self.rate)
        self._filled, self.rate, self.burst = now, rate, burst


class Memory:
    """How many bytes of messages are held at once, by requests that wait or run.

    Attributes:
        held: Bytes held now.
    """

    def __init__(self, most: int) -> None:
        """Nothing held yet, `most` bytes at once."""
        self.held = 0
        self._most = most

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Counts a message while a request has it.

        Args:
            size: Its bytes. One message alone is always taken: how large it may be is the transport's affair.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, with the others it is too much.
        """
        if self.held and self.held + size > self._most:
            raise ServingError(
                Code.RESOURCE_EXHAUSTED,
                f"the requests under way hold {self.held} bytes, with this one {self.held + size} of at most "
                f"{self._most}; try again later",
            )
        self.held += size
        try:
            yield
        finally:
            self.held -= size


class Load:
    """What one caller, or the whole server, has under way, and how much it may have.

    Attributes:
        in_flight: Requests under way.
        max_concurrent: How many there may be; None = any number.
        bucket: The rate; None = any.
    """

    __slots__ = ("bucket", "in_flight", "max_concurrent")

    def __init__(self, max_concurrent: int | None = None, bucket: TokenBucket | None = None) -> None:
        """Nothing under way yet."""
        self.in_flight = 0
        self.max_concurrent = max_concurrent
        self.bucket = bucket


class Admission:
    """Holds one request's place, the server's and the caller's, from `with` to the end of its block."""

    __slots__ = ("_caller", "_clock", "_name", "_server")

    def __init__(self, server: Load, caller: Load, name: str, clock: Callable[[], float]) -> None:
        """Prepares to enter; nothing is counted before `with`."""
        self._server, self._caller, self._name, self._clock = server, caller, name, clock

    def __enter__(self) -> None:
        """Counts the request.

        Raises:
            ServingError: RESOURCE_EXHAUSTED; nothing was counted.
        """
        server, caller = self._server, self._caller
        if server.max_concurrent is not None and server.in_flight >= server.max_concurrent:
            limit = server.max_concurrent
            raise _exhausted(f"the server has reached its limit of requests under way: {limit}; try later")
        if caller.max_concurrent is not None and caller.in_flight >= caller.max_concurrent:
            raise _exhausted(f"{self._name} has reached its limit of requests under way: {caller.max_concurrent}")
        # Last, because a request that is refused for another reason should not use up the rate.
        if caller.bucket is not None and (wait := caller.bucket.take(self._clock())):
            raise _exhausted(
                f"{self._name} may send {caller.bucket.rate:g} requests per second; try again in {wait:.3g} s"
            )
        server.in_flight += 1
        caller.in_flight += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Gives the places back."""
        self._server.in_flight -= 1
        self._caller.in_flight -= 1


def _exhausted(text: str) -> ServingError:
    return ServingError(Code.RESOURCE_EXHAUSTED, text)
