"""HTTP/1.1 for the REST interface: a server around the parser of `httptools` (llhttp).

Written on the parser rather than taken from a web server, because what a public port needs most is what the ASGI
servers leave out: a time limit for headers, bodies and readers, bounded headers, bodies and connections, and a refusal
before a body is read. Requests of one connection are answered one after the other, in their order.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time

from serving.rest.http_connection import Connection
from serving.rest.http_messages import Admit, Answer, Done, ErrorBody, HttpLimits


class HttpServer:
    """Listens on a port and hands requests to `answer`.

    Attributes:
        address: `host:port` that was really taken.
    """

    def __init__(self, admit: Admit, answer: Answer, error_body: ErrorBody, done: Done, limits: HttpLimits) -> None:
        """Does not listen yet.

        Args:
            admit: Called with method, path, headers and peer when the headers are complete; returns the caller, or an
                HttpResponse that refuses the request.
            answer: Called with each complete request; must not raise for bad input.
            error_body: The body of an error, from its text.
            done: Told of each request and its answer, for the access log.
            limits: What one client may take.
        """
        self.admit, self.answer, self.error_body, self.done, self.limits = admit, answer, error_body, done, limits
        self.connections: set[Connection] = set()
        self.buffered_bytes = 0
        self.draining = False
        self.address = ""
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Begins to answer.

        Args:
            listener: A bound TCP socket.
            tls: None = plain text.
        """
        host, port = listener.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self),
            sock=listener,
            ssl=tls,
            backlog=1024,
            # Of the handshake, and of the farewell that a client may not answer.
            ssl_handshake_timeout=self.limits.header_seconds if tls else None,
            ssl_shutdown_timeout=self.limits.linger_seconds if tls else None,
        )

    async def stop(self, grace_seconds: float) -> None:
        """Refuses new connections, lets requests under way finish, closes all connections."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        end = time.monotonic() + grace_seconds
        for connection in list(self.connections):
            connection.close_when_done()
        while self.connections and time.monotonic() < end:
            await asyncio.sleep(0.02)
        for connection in list(self.connections):
            connection.abort()
