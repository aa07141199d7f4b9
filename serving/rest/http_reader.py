"""Requests as the parser finds them in a connection's bytes, within their limits: complete ones, or a refusal."""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Mapping
from typing import Any, Protocol

import httptools

from serving.rest.http_messages import Admit, HttpLimits, HttpRequest, HttpResponse, target_path

logger = logging.getLogger(__name__)

# A second one may have been believed by what is before us.
_ONCE = ("content-length", "host", "authorization")


class Receiver(Protocol):
    """What a reader hands its requests to: the connection.

    Attributes:
        closing: A request that begins now is not read.
    """

    closing: bool

    def set_timer(self, seconds: float | None) -> None:
        """So long may the next part of the request take to come."""

    def go_on(self) -> None:
        """The client waits to be told that its body is wanted."""

    def hold(self, number: int) -> bool:
        """Counts bytes of a body; whether there is room for them."""

    def receive(self, request: HttpRequest, refusal: HttpResponse | None, keep_alive_header: bool, last: bool) -> None:
        """A request is complete; its answer is `refusal`, where there is one."""

    def refuse(self, status: int, text: str) -> None:
        """What came is no request, or is too much: nothing that comes after it can be read. Calls `end`."""

    def finish(self, response: HttpResponse) -> None:
        """As `refuse`, with a ready answer."""


class Stage(enum.Enum):
    """What a reader waits for; in DEAF for nothing: what comes is thrown away."""

    WAITING = enum.auto()  # for a request's first byte
    HEAD = enum.auto()
    BODY = enum.auto()
    DEAF = enum.auto()


class RequestReader:
    """Reads one connection's requests: the parser's callbacks, and the request that they make.

    Attributes:
        stage: Where in a request it is.
    """

    def __init__(self, receiver: Receiver, admit: Admit, peer: str, limits: HttpLimits) -> None:
        """Waits for the first request.

        Args:
            receiver: The connection.
            admit: Says of a request's head who sends it, or refuses it.
            peer: The client's address.
            limits: What one client may take.
        """
        self.receiver, self.admit, self.peer, self.limits = receiver, admit, peer, limits
        self.parser = httptools.HttpRequestParser(self)
        self.stage = Stage.WAITING
        self.head_bytes = self.stray_bytes = 0
        self.begin()

    def begin(self) -> None:
        """Forgets the last request's parts."""
        self.target, self.method, self.path = b"", "", ""
        self.headers: dict[str, str] = {}
        self.fields = self.field_bytes = 0
        self.body = bytearray()
        self.started = 0.0
        self.caller: Any = None
        self.refusal: HttpResponse | None = None

    @property
    def arriving(self) -> bool:
        """Whether a request has begun to come and is not complete."""
        return self.stage is Stage.HEAD or self.stage is Stage.BODY

    def request(self) -> HttpRequest:
        """The request that the parser is at, with what there is of its body."""
        body, self.body = bytes(self.body), bytearray()
        deadline = time.monotonic() + self.limits.request_seconds - (time.perf_counter() - self.started)
        return HttpRequest(self.method, self.path, self.headers, body, self.peer, self.caller, deadline, self.started)

    def end(self) -> None:
        """Reads no more, and drops what it has of a request."""
        self.stage = Stage.DEAF
        self.body = bytearray()

    def feed(self, data: bytes) -> None:
        """Reads what has come."""
        if self.stage is Stage.DEAF:
            return
        if self.stage is Stage.BODY:
            self.stray_bytes += len(data)  # unless the parser finds a part of the body in it, or the request's end
        else:
            self.head_bytes += len(data)
            # Where headers and the beginning of a body come together, the headers may be over already: the parser
            # says so below. A head that is still open and too long is refused.
            if self.head_bytes - len(data) > self.limits.max_header_bytes:
                self.receiver.refuse(431, "Request header fields too large")
                return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request was received as if it had not asked, and as the last one; that is what the protocol wants.
            pass
        except httptools.HttpParserCallbackError:
            logger.exception("reading a request failed")  # in our own code below
            self.receiver.refuse(500, "Internal error")
        except httptools.HttpParserError:
            self.receiver.refuse(400, "Malformed HTTP request")
        # Extensions of chunks and fields after the last one have no end of their own.
        if self.stray_bytes > self.limits.max_header_bytes:
            self.receiver.refuse(431, "Request trailer fields too large")

    # Of the parser.

    def on_message_begin(self) -> None:
        if self.receiver.closing:
            self.end()
        if self.stage is Stage.DEAF:
            return
        self.begin()
        self.started = time.perf_counter()
        self.stage = Stage.HEAD
        self.receiver.set_timer(self.limits.header_seconds)

    def on_url(self, part: bytes) -> None:
        if self.stage is Stage.DEAF:
            return
        self.target += part
        if len(self.target) > self.limits.max_header_bytes:
            self.receiver.refuse(414, "Request path too long")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.stage is not Stage.HEAD:  # fields after the body came too late to be judged
            return
        self.fields += 1
        self.field_bytes += len(name) + len(value)
        if self.fields > self.limits.max_headers:
            self.receiver.refuse(431, "Too many request header fields")
            return
        if self.field_bytes > self.limits.max_header_bytes:
            self.receiver.refuse(431, "Request header fields too large")
            return
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        known = self.headers.get(key)
        if known is not None and key in _ONCE:
            self.receiver.refuse(400, f"Repeated header {key}")
            return
        self.headers[key] = text if known is None else f"{known}, {text}"

    def on_headers_complete(self) -> None:
        if self.stage is Stage.DEAF:
            return
        self.stage, self.head_bytes = Stage.BODY, 0
        self.receiver.set_timer(self.limits.request_seconds - (time.perf_counter() - self.started))
        self.method = self.parser.get_method().decode("latin-1")
        self.path = target_path(self.target)
        version = self.parser.get_http_version()
        if fault := _fault(version, self.headers):
            self.receiver.refuse(400, fault)
            return
        length = self.headers.get("content-length", "")
        found = self.admit(self.method, self.path, self.headers, self.peer)
        if isinstance(found, HttpResponse):
            if length not in ("", "0") or "transfer-encoding" in self.headers:
                # The body is not read: the connection cannot be used for anything after it.
                self.receiver.finish(found)
            else:
                self.refusal = found
            return
        self.caller = found
        if length.isdecimal() and int(length) > self.limits.max_body_bytes:
            self.refuse_body()
        elif self.headers.get("expect", "").lower() == "100-continue" and version == "1.1":
            self.receiver.go_on()

    def on_body(self, part: bytes) -> None:
        if self.stage is Stage.DEAF:
            return
        self.body += part
        self.stray_bytes = 0
        has_room = self.receiver.hold(len(part))
        if len(self.body) > self.limits.max_body_bytes:
            self.refuse_body()
        elif not has_room:
            self.receiver.refuse(503, "Too many request bodies at once")

    def on_message_complete(self) -> None:
        if self.stage is Stage.DEAF:
            return
        last = not self.parser.should_keep_alive() or self.parser.should_upgrade()
        keep_alive_header = not last and self.parser.get_http_version() == "1.0"
        request = self.request()
        self.stage, self.stray_bytes = Stage.DEAF if last else Stage.WAITING, 0
        self.receiver.receive(request, self.refusal, keep_alive_header, last)

    def refuse_body(self) -> None:
        limit = self.limits.max_body_bytes
        self.receiver.refuse(413, f"Request body is larger than {limit} bytes (--max_request_bytes)")


def _fault(version: str, headers: Mapping[str, str]) -> str:
    """Why a head is not understood, or may have been understood otherwise by what is before us; empty = it is clear."""
    coding = headers.get("transfer-encoding")
    if version not in ("1.0", "1.1"):
        return f"HTTP/{version} is not spoken here"
    if coding is not None and coding.lower() != "chunked":
        return "Transfer-Encoding other than chunked"
    if coding is not None and version == "1.0":
        # HTTP/1.0 has no chunks: what is before us may have seen the request's end elsewhere.
        return "Transfer-Encoding in HTTP/1.0"
    return ""
