"""Asking a run to stop: SIGTERM, as a cluster sends it before it takes a machine away, or Ctrl-C."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(Exception):
    """Training was asked to stop by a signal, and its state is saved.

    Attributes:
        signal_number: the signal.
    """

    def __init__(self, signal_number: int, updates: int) -> None:
        super().__init__(f"stopped after update {updates}; the same command goes on from there")
        self.signal_number = signal_number


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that training stops between two executions; a second one acts as usual."""
    caught: list[int] = []
    previous: dict[int, Callable | int] = {}

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        for each, handler in previous.items():
            signal.signal(each, handler)

    if threading.current_thread() is threading.main_thread():
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            previous[number] = signal.getsignal(number) or signal.SIG_DFL
            signal.signal(number, catch)
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
