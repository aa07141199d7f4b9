"""A loaded version that counts the requests inside it, so that it is only unloaded when they are done."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any


class Servable:
    """One version of one model and the number of requests that use it.

    Used as a context manager by a request, after `try_enter` said yes:

        >>> if servable.try_enter():
        ...     with servable:
        ...         servable.model.run(...)

    Attributes:
        name: The model's name.
        version: The version's number.
        model: The loaded model (`serving.engine.LoadedModel`, or a stand-in in tests).
    """

    def __init__(self, name: str, version: int, model: Any) -> None:
        """A version nobody uses yet."""
        self.name = name
        self.version = version
        self.model = model
        self._users = 0
        self._retired = False
        self._changed = threading.Condition()

    def try_enter(self) -> bool:
        """Counts one more user; False if the version is being unloaded."""
        with self._changed:
            if self._retired:
                return False
            self._users += 1
            return True

    def __enter__(self) -> Servable:
        """The servable itself; `try_enter` has counted this user already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Counts one user less."""
        self.leave()

    def stay(self) -> None:
        """Counts one more user while another is inside, even if the version is being unloaded already."""
        with self._changed:
            self._users += 1

    def leave(self) -> None:
        """Counts one user less."""
        with self._changed:
            self._users -= 1
            if not self._users:
                self._changed.notify_all()

    def retire(self) -> None:
        """Lets nobody in any more, waits for those inside, then frees the model."""
        with self._changed:
            self._retired = True
            self._changed.wait_for(lambda: self._users == 0)
        self.model.close()
        del self.model
