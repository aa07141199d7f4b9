"""One connection of one load-generating client: a request, its answer, the next request.

The load generator runs beside the server it measures, often on the same cores, so it must cost little: no tasks, no
futures, no parsing beyond what tells that an answer is complete and whether it is one.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable
from typing import cast

# Called once for every request: None for a good answer, or the kind of error and what was said about it.
Done = Callable[[str | None, str], None]

REFUSED = "cannot connect"
LOST = "connection lost"
UNREADABLE = "answer not understood"


class Connection(asyncio.Protocol):
    """A connection that is made by its first request, carries one request at a time and is not used again when closed.

    Attributes:
        closed: No further request can be sent; make another connection.
    """

    def __init__(self, address: str, tls: ssl.SSLContext | None) -> None:
        """Nothing is connected yet.

        Args:
            address: `host:port` or `unix:/path/of/socket`.
            tls: None = plain text.
        """
        self.closed = False
        self._address = address
        self._tls = tls
        self._transport: asyncio.Transport | None = None
        self._request = b""
        self._done: Done | None = None
        self._connecting: asyncio.Task[None] | None = None

    def send(self, request: bytes, done: Done) -> None:
        """Sends a request; `done` is called when its answer is complete or will not come."""
        self._request, self._done = request, done
        if self._transport is not None:
            self._start(request)
        else:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def give_up(self, error: str, text: str = "") -> None:
        """Closes the connection at once; the request under way, if any, ends with this error."""
        self.closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._finish(error, text)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends what was waiting for the connection."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        self._greet()
        if self._done is not None:
            self._start(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        """A request under way is lost with its connection."""
        self.closed = True
        self._finish(LOST, str(error or "closed by the server"))

    def data_received(self, data: bytes) -> None:
        """Reads on; what is not the protocol ends the connection."""
        try:
            self._read(data)
        except (ValueError, IndexError, struct.error) as error:
            self.give_up(UNREADABLE, str(error))

    def _read(self, data: bytes) -> None:
        raise NotImplementedError

    def _greet(self) -> None:
        """What a protocol says before its first request."""

    def _start(self, request: bytes) -> None:
        raise NotImplementedError

    def _finish(self, error: str | None, text: str = "") -> None:
        if self._done is not None:
            done, self._done = self._done, None
            done(error, text)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            if self._address.startswith("unix:"):
                path, name = self._address.removeprefix("unix:"), "localhost" if self._tls else None
                await loop.create_unix_connection(lambda: self, path, ssl=self._tls, server_hostname=name)
            else:
                host, _, port = self._address.rpartition(":")
                await loop.create_connection(lambda: self, host.strip("[]"), int(port), ssl=self._tls)
        except OSError as error:  # ssl.SSLError is one
            self.closed = True
            self._finish(REFUSED, str(error))
