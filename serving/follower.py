"""When models are looked at: one thread keeps the time, a few others look."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

logger = logging.getLogger(__name__)


class Follower:
    """Calls `look(name)` for every model at once, then again and again; never twice at once for one model."""

    def __init__(
        self, look: Callable[[str], None], names: Callable[[], Iterable[str]], poll_seconds: float, threads: int
    ) -> None:
        """Does nothing yet.

        Args:
            look: Looks at a model, which may take as long as loading it.
            names: The models to look at.
            poll_seconds: Between looks; 0 = once, and whenever `look_soon` says so.
            threads: Models that are looked at at once; 0 = one.
        """
        self._look = look
        self._names = names
        self._poll_seconds = poll_seconds
        self._threads = max(1, threads)
        self._changed = threading.Condition()
        self._next: dict[str, float] = {}  # when each model is looked at, in seconds of time.monotonic()
        self._under_way: set[str] = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="model-follower", daemon=True)

    def start(self) -> None:
        """Looks at every model, and goes on."""
        self.look_soon(self._names())
        self._thread.start()

    def look_soon(self, names: Iterable[str], seconds: float = 0.0) -> None:
        """Looks at models as soon as a thread is free, or some seconds from now."""
        when = time.monotonic() + seconds
        with self._changed:
            for name in names:
                self._next[name] = min(when, self._next.get(name, when))
            self._changed.notify_all()

    def close(self, timeout: float) -> None:
        """Begins no more looks; waits for those under way, at most `timeout` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._under_way, timeout)

    def _run(self) -> None:
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="model-loader")
        next_look = time.monotonic() + self._poll_seconds
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                if self._poll_seconds and now >= next_look:
                    self._next.update(dict.fromkeys(self._names(), now))
                    next_look = now + self._poll_seconds
                for name in [name for name, when in self._next.items() if when <= now and name not in self._under_way]:
                    del self._next[name]
                    self._under_way.add(name)
                    pool.submit(self._look_once, name)
                # What is due while its last look is under way waits for that, and that notifies.
                times = [when for name, when in self._next.items() if name not in self._under_way]
                if self._poll_seconds:
                    times.append(next_look)
                self._changed.wait(max(0.0, min(times) - time.monotonic()) if times else None)
        pool.shutdown(wait=False)

    def _look_once(self, name: str) -> None:
        # The threads must survive whatever a directory or a model does to them: without them no version would ever be
        # loaded or unloaded again. Expected errors are handled by `look`; this is for ours.
        try:
            if not self._stopping:
                self._look(name)
        except Exception:
            logger.exception("looking for versions of %s failed; trying again", name)
        finally:
            with self._changed:
                self._under_way.discard(name)
                self._changed.notify_all()
