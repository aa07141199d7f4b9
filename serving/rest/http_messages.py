"""What the parts of the HTTP transport share: its limits, requests and responses, and how it asks its owner."""

from __future__ import annotations

import http
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

STATUS_LINES = {
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


def target_path(target: bytes) -> str:
    """The path of a request's target, which a proxy may have sent with scheme and host: `http://host/path?query`."""
    path = target.partition(b"?")[0].decode("latin-1")
    if path[:7].lower() == "http://" or path[:8].lower() == "https://":
        _, slash, rest = path.partition("://")[2].partition("/")
        return slash + rest or "/"
    return path
