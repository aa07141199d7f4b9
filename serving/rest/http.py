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

# A connection with so many requests that wait for their turn is not read from.
_MAX_PIPELINED = 16
# A client reads so much of its answer in `write_seconds`, or is let go.
_MIN_READ_BYTES = 256 * 1024
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
        max_buffered_bytes: Of the bodies of all requests that are being received or answered; beyond it, requests with
            a body are answered 503.
        max_header_bytes: Of a request's path and headers, and of what may come with a body that is none of it.
        max_headers: Header fields of a request.
        header_seconds: From a connection, or a request's first byte, to the end of its headers.
        idle_seconds: Between an answer and the connection's next request.
        write_seconds: In which a client must have read some of its answer.
        linger_seconds: For which a refused client may go on sending: closed at once, it might never read the refusal.
    """

    max_body_bytes: int = 100_000_000
    max_connections: int = 4096
    request_seconds: float = 30.0
    max_buffered_bytes: int = 1 << 30
    max_header_bytes: int = 64 * 1024
    max_headers: int = 128
    header_seconds: float = 10.0
    idle_seconds: float = 75.0
    write_seconds: float = 30.0
    linger_seconds: float = 2.0


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
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Connection(self),
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


@dataclass(slots=True)
class _Due:
    """An answer that is due: `response` None = still to be found."""

    request: HttpRequest
    response: HttpResponse | None
    keep_alive_header: bool


class _Connection(asyncio.Protocol):
    """One client's connection: parser callbacks, a timer for what it sends and one for what it reads, one task."""

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self.limits = server.limits
        self.loop = asyncio.get_running_loop()
        self.parser = httptools.HttpRequestParser(self)
        self.transport: asyncio.Transport | None = None
        self.peer = ""
        self.due: deque[_Due] = deque()
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.write_timer: asyncio.TimerHandle | None = None
        self.writable: asyncio.Future[None] | None = None  # there while the client does not read
        self.unread_bytes = 0
        self.closing = False  # after the answers that are due
        self.deaf = False  # what comes now is thrown away
        self.refused = False  # and the client may be in the midst of sending it
        self.arriving = False  # a request has begun to come and is not complete
        self.in_head = True
        self.head_bytes = self.stray_bytes = 0
        self.held_bytes = 0  # of bodies, as counted in `server.buffered_bytes`
        self.begin()

    def begin(self) -> None:
        """Forgets the last request's parts."""
        self.url, self.method, self.path = b"", "", ""
        self.headers: dict[str, str] = {}
        self.fields = self.field_bytes = 0
        self.body = bytearray()
        self.started = 0.0
        self.caller: Any = None
        self.refusal: HttpResponse | None = None

    # Of asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        address = transport.get_extra_info("peername")
        self.peer = address[0] if isinstance(address, tuple) else ""
        full = len(self.server.connections) >= self.limits.max_connections
        self.server.connections.add(self)
        if self.server.draining:
            self.close()
        elif full:
            self.deaf = self.closing = True
            self.send(_Due(self.request(), self.error(503, "Too many connections"), False))
            self.close()
        else:
            self.set_timer(self.limits.header_seconds)

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            return
        if self.in_head:
            self.head_bytes += len(data)
            # Where headers and the beginning of a body come together, the headers may be over already: the parser
            # says so below. A head that is still open and too long is refused.
            if self.head_bytes - len(data) > self.limits.max_header_bytes:
                self.refuse(431, "Request header fields too large")
                return
        body_bytes = -1 if self.in_head else len(self.body)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request before it is answered as if it had not asked; that is what the protocol wants.
            self.deaf = self.closing = True
        except httptools.HttpParserCallbackError:
            logger.exception("reading a request failed")  # in our own code below
            self.refuse(500, "Internal error")
        except httptools.HttpParserError:
            self.refuse(400, "Malformed HTTP request")
        # Extensions of chunks and fields after the last one have no end of their own.
        self.stray_bytes = self.stray_bytes + len(data) if len(self.body) == body_bytes else 0
        if self.stray_bytes > self.limits.max_header_bytes:
            self.refuse(431, "Request trailer fields too large")

    def eof_received(self) -> bool:
        # A client may close its side after its requests and still read the answers; half a request gets none. One that
        # has gone looks the same until it is written to.
        self.closing = self.deaf = True
        self.arriving = False
        self.set_timer(None)
        assert self.transport is not None
        return self.task is not None and self.transport.can_write_eof()  # with TLS there is no half

    def connection_lost(self, error: Exception | None) -> None:
        self.closing = self.deaf = True
        self.server.connections.discard(self)
        self.release(self.held_bytes)
        self.body = bytearray()
        self.due.clear()
        self.set_timer(None)
        self.set_write_timer(None)
        if self.task is not None:
            self.task.cancel()  # nobody reads the answer any more

    def pause_writing(self) -> None:
        self.writable = self.loop.create_future()
        self.set_write_timer(self.limits.write_seconds)
        self.adjust_reading()

    def resume_writing(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.set_write_timer(None)
        if self.writable is not None and not self.writable.done():
            self.writable.set_result(None)
        self.writable = None
        self.adjust_reading()

    # Of the parser.

    def on_message_begin(self) -> None:
        if self.closing:
            self.deaf = True
        if self.deaf:
            return
        self.begin()
        self.started = time.perf_counter()
        self.arriving = self.in_head = True
        self.set_timer(self.limits.header_seconds)

    def on_url(self, url: bytes) -> None:
        if self.deaf:
            return
        self.url += url
        if len(self.url) > self.limits.max_header_bytes:
            self.refuse(414, "Request path too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.deaf or not self.in_head:  # fields after the body came too late to be judged
            return
        self.fields += 1
        self.field_bytes += len(name) + len(value)
        if self.fields > self.limits.max_headers:
            self.refuse(431, "Too many request header fields")
            return
        if self.field_bytes > self.limits.max_header_bytes:
            self.refuse(431, "Request header fields too large")
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        known = self.headers.get(key)
        if known is not None and key in ("content-length", "host", "authorization"):
            self.refuse(400, f"Repeated header {key}")
            return
        self.headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        if self.deaf:
            return
        self.in_head, self.head_bytes = False, 0
        self.set_timer(self.limits.request_seconds - (time.perf_counter() - self.started))
        self.method = self.parser.get_method().decode("latin-1")
        self.path = _path(self.url)
        length, coding = self.headers.get("content-length", ""), self.headers.get("transfer-encoding")
        version = self.parser.get_http_version()
        if version not in ("1.0", "1.1"):
            self.refuse(400, f"HTTP/{version} is not spoken here")
            return
        if coding is not None and coding.lower() != "chunked":
            self.refuse(400, "Transfer-Encoding other than chunked")
            return
        if coding is not None and version == "1.0":
            # HTTP/1.0 has no chunks: what is before us may have seen the request's end elsewhere.
            self.refuse(400, "Transfer-Encoding in HTTP/1.0")
            return
        found = self.server.admit(self.method, self.path, self.headers, self.peer)
        if isinstance(found, HttpResponse):
            if length not in ("", "0") or coding is not None:
                # The body is not read: the connection cannot be used for anything after it.
                self.finish_refused(found)
            else:
                self.refusal = found
            return
        self.caller = found
        if length.isdecimal() and int(length) > self.limits.max_body_bytes:
            self.finish_refused(self.too_large())
        elif self.headers.get("expect", "").lower() == "100-continue" and version == "1.1" and self.task is None:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        if self.deaf:
            return
        self.body += part
        self.held_bytes += len(part)
        self.server.buffered_bytes += len(part)
        if len(self.body) > self.limits.max_body_bytes:
            self.finish_refused(self.too_large())
        elif self.server.buffered_bytes > self.limits.max_buffered_bytes:
            self.finish_refused(self.error(503, "Too many request bodies at once"))

    def on_message_complete(self) -> None:
        if self.deaf:
            return
        self.set_timer(None)
        self.arriving, self.in_head = False, True
        keep_alive = self.parser.should_keep_alive() and not self.parser.should_upgrade()
        if not keep_alive:
            self.closing = self.deaf = True
        old = keep_alive and self.parser.get_http_version() == "1.0"
        due = _Due(self.request(), self.refusal, old)
        if due.response is not None and self.task is None:
            self.send(due)
            self.rest()
            return
        self.due.append(due)
        if self.task is None:
            self.task = self.loop.create_task(self.respond())
        elif len(self.due) == _MAX_PIPELINED:
            self.adjust_reading()

    # Ours.

    def request(self) -> HttpRequest:
        """The request that the parser is at, with what there is of its body."""
        body, self.body = bytes(self.body), bytearray()
        deadline = time.monotonic() + self.limits.request_seconds - (time.perf_counter() - self.started)
        return HttpRequest(self.method, self.path, self.headers, body, self.peer, self.caller, deadline, self.started)

    async def respond(self) -> None:
        """Gives the answers that are due, in their order."""
        while self.due:
            due = self.due.popleft()
            if len(self.due) == _MAX_PIPELINED - 1:
                self.adjust_reading()
            request = due.request
            try:
                if due.response is None:
                    due.response = await self.server.answer(request)
                if self.writable is not None:
                    await self.writable
            except asyncio.CancelledError:
                self.server.done(request, HttpResponse(499, facts={"code": "CANCELLED"}))
                raise
            except Exception:
                # The boundary to the network: what goes wrong in us is logged in full here and told in brief there.
                logger.exception("%s %s failed", request.method, request.path)
                due.response = self.error(500, "Internal error")
            self.send(due)
        self.task = None
        self.rest()

    def send(self, due: _Due) -> None:
        """Writes an answer."""
        request, response = due.request, due.response
        assert response is not None
        parts = [_STATUS_LINES[response.status]]
        for name, value in response.headers:
            parts.append(f"{name}: {value}\r\n".encode("latin-1"))
        if (self.closing or self.server.draining) and not self.due and not self.arriving:
            self.closing = True
            parts.append(b"Connection: close\r\n")
        elif due.keep_alive_header:
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"Content-Length: %d\r\n\r\n" % len(response.body))
        if request.method != "HEAD":
            parts.append(response.body)
        self.release(len(request.body))
        self.write(b"".join(parts))
        self.server.done(request, response)

    def rest(self) -> None:
        """What comes when no answer is due: the end, the rest of a request, or a pause."""
        if self.arriving:
            return
        if not self.closing:
            self.set_timer(self.limits.idle_seconds)
        elif self.refused and self.transport is not None and self.transport.can_write_eof():
            if not self.transport.is_closing():
                self.transport.write_eof()
            self.adjust_reading()
            self.set_timer(self.limits.linger_seconds)
        else:
            self.close()

    def refuse(self, status: int, text: str) -> None:
        """Answers what cannot be read as a request, or not be waited for, and closes."""
        if not self.deaf:
            self.finish_refused(self.error(status, text))

    def finish_refused(self, response: HttpResponse) -> None:
        """Sends a last answer, after those that are due; nothing that comes is read any more."""
        self.deaf = self.closing = self.refused = True
        self.arriving = False
        self.set_timer(None)
        due = _Due(self.request(), response, False)
        if self.task is None:
            self.send(due)
            self.rest()
        else:
            self.due.append(due)

    def error(self, status: int, text: str) -> HttpResponse:
        return HttpResponse(status, self.server.error_body(text), (("Content-Type", "application/json"),))

    def too_large(self) -> HttpResponse:
        limit = self.limits.max_body_bytes
        return self.error(413, f"Request body is larger than {limit} bytes (--max_request_bytes)")

    def release(self, number: int) -> None:
        """Gives back the room of a body, unless the connection's end has done it already."""
        number = min(number, self.held_bytes)
        self.held_bytes -= number
        self.server.buffered_bytes -= number

    def adjust_reading(self) -> None:
        """Reads no more from a client that does not read, or that has asked for more than it is answered."""
        if self.transport is None or self.transport.is_closing():
            return
        if not self.refused and (self.writable is not None or len(self.due) >= _MAX_PIPELINED):
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def set_timer(self, seconds: float | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if seconds is not None:
            self.timer = self.loop.call_later(max(0.0, seconds), self.on_timer)

    def on_timer(self) -> None:
        self.timer = None
        if self.arriving:
            self.refuse(408, "The request took too long to arrive")
        else:
            self.close()

    def set_write_timer(self, seconds: float | None) -> None:
        if self.write_timer is not None:
            self.write_timer.cancel()
            self.write_timer = None
        if seconds is not None and self.transport is not None:
            self.unread_bytes = self.transport.get_write_buffer_size()
            self.write_timer = self.loop.call_later(seconds, self.on_write_timer)

    def on_write_timer(self) -> None:
        assert self.transport is not None
        self.write_timer = None
        if self.unread_bytes - self.transport.get_write_buffer_size() < _MIN_READ_BYTES:
            self.transport.abort()
        else:
            self.set_write_timer(self.limits.write_seconds)

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Closes when the last answer is on its way; a client that does not take it is not waited for."""
        self.set_timer(None)
        if self.transport is not None:
            self.transport.close()
            self.set_write_timer(self.limits.write_seconds)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def close_when_done(self) -> None:
        """Closes now, or after the answers under way."""
        self.closing = True
        if self.task is None and not self.arriving:
            self.close()


def _path(url: bytes) -> str:
    """The path of a request's target, which a proxy may have sent with scheme and host: `http://host/path?query`."""
    path = url.partition(b"?")[0].decode("latin-1")
    if path[:7].lower() == "http://" or path[:8].lower() == "https://":
        _, slash, rest = path.partition("://")[2].partition("/")
        return slash + rest or "/"
    return path
