"""HTTP/1.1 for the REST interface: connections, limits and timeouts around the parser of `httptools` (llhttp).

Written on the parser rather than taken from a web server, because what a public port needs most is what the ASGI
servers leave out: a time limit for headers, bodies and readers, bounded headers, bodies and connections, and a refusal
before a body is read. Requests of one connection are answered one after the other, in their order.
"""

from __future__ import annotations

import asyncio
import http
import logging
import socket
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httptools

logger = logging.getLogger(__name__)

_MAX_HEADER_BYTES = 64 * 1024
_MAX_HEADERS = 128
_HEADER_SECONDS = 10.0  # from a connection, or a request's first byte, to the end of its headers
_IDLE_SECONDS = 75.0
_WRITE_SECONDS = 30.0  # for a client that does not read its answer
_MAX_PIPELINED = 16
_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in http.HTTPStatus
} | {499: b"HTTP/1.1 499 Client Closed Request\r\n"}


@dataclass(frozen=True)
class HttpLimits:
    """What one client may take.

    Attributes:
        max_body_bytes: Of a request's body, as sent.
        max_connections: At once; the next is answered 503 and closed.
        request_seconds: From a request's first byte to its answer.
        max_buffered_bytes: Of all bodies being received; beyond it, requests with a body are answered 503.
    """

    max_body_bytes: int = 100_000_000
    max_connections: int = 4096
    request_seconds: float = 30.0
    max_buffered_bytes: int = 1 << 30


@dataclass(slots=True)
class HttpRequest:
    """A request as it came, its body complete.

    Attributes:
        method: e.g. `POST`.
        path: Still percent-encoded, without the query.
        headers: By lower-case name; repeated ones are joined by a comma.
        body: As sent (perhaps compressed).
        peer: The client's address.
        caller: Who it is, if `HttpServer.admit` said so.
        deadline: When the answer is of no more use, in `time.monotonic()` seconds.
        started: When its first byte came, in `time.perf_counter()` seconds.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    peer: str
    caller: Any
    deadline: float
    started: float


@dataclass(slots=True)
class HttpResponse:
    """An answer: `headers` without Content-Length, which is added. `facts` are for the access log."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    facts: dict[str, Any] | None = None


# Looks at a request's head before its body is read: who it is, or a refusal.
Admit = Callable[[str, str, Mapping[str, str], str], Any]
Answer = Callable[[HttpRequest], Awaitable[HttpResponse]]
# Makes the body of an error that the transport finds.
ErrorBody = Callable[[str], bytes]
Done = Callable[[HttpRequest, HttpResponse], None]


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
        self.connections: set[_Connection] = set()
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
        timeout = {"ssl_handshake_timeout": _HEADER_SECONDS} if tls else {}
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self), sock=listener, ssl=tls, backlog=1024, **timeout
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


class _Connection(asyncio.Protocol):
    """One client's connection: parser callbacks, one timer, one request under way."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self.waiting: deque[tuple[HttpRequest, bool]] = deque()
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.write_timer: asyncio.TimerHandle | None = None
        self.closing = False  # after the answers that are due
        self.refused = False  # nothing that comes now is read
        self.in_headers = True
        self.head_bytes = 0
        self.begin()

    def begin(self) -> None:
        """Forgets the last request's parts."""
        self.url, self.method, self.path = b"", "", ""
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.started = 0.0
        self.caller: Any = None
        self.refusal: HttpResponse | None = None

    # Of asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        address = transport.get_extra_info("peername")
        self.peer = address[0] if isinstance(address, tuple) else ""
        if len(self.server.connections) >= self.server.limits.max_connections:
            self.refuse(503, "Too many connections")
        self.server.connections.add(self)
        self.set_timer(_HEADER_SECONDS)

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        if self.in_headers:
            if not self.started:
                self.started = time.perf_counter()
            self.head_bytes += len(data)
            # Where headers and the beginning of a body come together, the headers may be over already: the parser
            # says so below. A head that is still open and too long is refused.
            if self.head_bytes - len(data) > _MAX_HEADER_BYTES:
                self.refuse(431, "Request header fields too large")
                return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.refuse(400, "Upgrade is not supported")
        except httptools.HttpParserCallbackError:
            logger.exception("reading a request failed")  # in our own code below
            self.refuse(500, "Internal error")
        except httptools.HttpParserError:
            if not self.refused:
                self.refuse(400, "Malformed HTTP request")

    def eof_received(self) -> bool:
        # A client may close its side after the request and still read the answer; without a request there is none.
        self.closing = True
        return self.task is not None

    def connection_lost(self, error: Exception | None) -> None:
        self.server.connections.discard(self)
        self.server.buffered_bytes -= len(self.body)
        self.body = bytearray()
        self.waiting.clear()
        self.set_timer(None)
        if self.write_timer is not None:
            self.write_timer.cancel()
        if self.task is not None:
            self.task.cancel()  # nobody reads the answer any more

    def pause_writing(self) -> None:
        self.write_timer = self.loop.call_later(_WRITE_SECONDS, self.abort)

    def resume_writing(self) -> None:
        if self.write_timer is not None:
            self.write_timer.cancel()
            self.write_timer = None

    # Of the parser.

    def on_message_begin(self) -> None:
        self.begin()
        self.started = time.perf_counter()
        self.in_headers = True
        self.set_timer(_HEADER_SECONDS)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        known = self.headers.get(key)
        if known is not None and key in ("content-length", "host", "authorization"):
            self.refusal = self.error(400, f"Repeated header {key}")
        self.headers[key] = text if known is None else f"{known}, {text}"
        if len(self.headers) > _MAX_HEADERS:
            self.refusal = self.error(431, "Too many request header fields")

    def on_headers_complete(self) -> None:
        self.in_headers, self.head_bytes = False, 0
        limits = self.server.limits
        self.set_timer(limits.request_seconds - (time.perf_counter() - self.started))
        self.method = self.parser.get_method().decode("latin-1")
        self.path = self.url.partition(b"?")[0].decode("latin-1")
        if self.refusal is None:
            found = self.server.admit(self.method, self.path, self.headers, self.peer)
            self.caller, self.refusal = (None, found) if isinstance(found, HttpResponse) else (found, None)
        length = self.headers.get("content-length", "")
        if self.refusal is None and length.isdecimal() and int(length) > limits.max_body_bytes:
            self.refusal = self.too_large()
        has_body = length not in ("", "0") or "transfer-encoding" in self.headers
        if self.refusal is not None and has_body:
            # The body is not read: the connection cannot be used for anything after it.
            self.finish_refused(self.refusal)
        elif self.headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        if self.refused:
            return
        self.body += part
        self.server.buffered_bytes += len(part)
        if len(self.body) > self.server.limits.max_body_bytes:
            self.finish_refused(self.too_large())
        elif self.server.buffered_bytes > self.server.limits.max_buffered_bytes:
            self.finish_refused(self.error(503, "Too many request bodies at once"))

    def on_message_complete(self) -> None:
        if self.refused:
            return
        self.set_timer(None)
        request = self.request()
        self.in_headers, self.head_bytes = True, 0
        keep_alive = self.parser.should_keep_alive()
        if self.refusal is not None:
            refusal = self.refusal
            if self.task is None and not self.waiting:
                self.send(request, refusal, keep_alive)
                return
            self.finish_refused(refusal)
            return
        self.waiting.append((request, keep_alive))
        if self.task is None:
            self.task = self.loop.create_task(self.respond())
        elif len(self.waiting) > _MAX_PIPELINED:
            self.refuse(429, "Too many pipelined requests")

    # Ours.

    def request(self) -> HttpRequest:
        """The request that the parser is at, with what there is of its body."""
        body = bytes(self.body)
        self.server.buffered_bytes -= len(self.body)
        self.body = bytearray()
        deadline = time.monotonic() + self.server.limits.request_seconds - (time.perf_counter() - self.started)
        return HttpRequest(self.method, self.path, self.headers, body, self.peer, self.caller, deadline, self.started)

    async def respond(self) -> None:
        """Answers what waits, in its order."""
        while self.waiting:
            request, keep_alive = self.waiting.popleft()
            try:
                response = await self.server.answer(request)
            except Exception:
                # The boundary to the network: what goes wrong in us is logged in full here and told in brief there.
                logger.exception("%s %s failed", request.method, request.path)
                response = self.error(500, "Internal error")
            self.send(request, response, keep_alive)
            if self.closing:
                break
        self.task = None
        if self.closing and not self.waiting:
            self.close()
        elif self.in_headers:
            self.set_timer(_HEADER_SECONDS if self.head_bytes else _IDLE_SECONDS)

    def send(self, request: HttpRequest, response: HttpResponse, keep_alive: bool) -> None:
        """Writes an answer."""
        if not keep_alive or self.server.draining:
            self.closing = True
        parts = [_STATUS_LINES[response.status]]
        for name, value in response.headers:
            parts.append(f"{name}: {value}\r\n".encode("latin-1"))
        if self.closing:
            parts.append(b"Connection: close\r\n")
        parts.append(b"Content-Length: %d\r\n\r\n" % len(response.body))
        if request.method != "HEAD":
            parts.append(response.body)
        self.write(b"".join(parts))
        self.server.done(request, response)
        if self.closing and self.task is None:
            self.close()

    def refuse(self, status: int, text: str) -> None:
        """Answers what cannot be read as a request, or not be waited for, and closes."""
        self.finish_refused(self.error(status, text))

    def finish_refused(self, response: HttpResponse) -> None:
        """Sends a last answer; nothing that comes after it is read."""
        self.refused = self.closing = True
        self.set_timer(None)
        request = self.request()
        if self.task is not None:
            self.task.cancel()
            self.task = None
        self.waiting.clear()
        self.send(request, response, keep_alive=False)

    def error(self, status: int, text: str) -> HttpResponse:
        return HttpResponse(status, self.server.error_body(text), (("Content-Type", "application/json"),))

    def too_large(self) -> HttpResponse:
        limit = self.server.limits.max_body_bytes
        return self.error(413, f"Request body is larger than {limit} bytes (--max_request_bytes)")

    def set_timer(self, seconds: float | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if seconds is not None:
            self.timer = self.loop.call_later(max(0.0, seconds), self.on_timer)

    def on_timer(self) -> None:
        self.timer = None
        if self.task is not None:
            self.set_timer(1.0)  # an answer is due first; look again
        elif self.head_bytes or not self.in_headers:
            self.refuse(408, "The request took too long to arrive")
        else:
            self.close()

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        self.set_timer(None)
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def close_when_done(self) -> None:
        """Closes now, or after the answer under way."""
        self.closing = True
        if self.task is None and (self.in_headers and not self.head_bytes):
            self.close()
