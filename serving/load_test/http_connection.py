"""HTTP/1.1 for the load generator: whole requests out, and just enough reading to see an answer's end and status.

Answers may have a length, be chunked, or last until the connection closes: other servers are measured too.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from serving.load_test.connection import Connection

_UNTIL_CLOSED = -1
_CHUNKED = -2
_TEXT_BYTES = 300


@dataclass(frozen=True)
class HttpTarget:
    """A server that is asked over HTTP/1.1 with connections kept alive; requests are made by `http_request`.

    Attributes:
        address: `host:port` or `unix:/path/of/socket`.
        tls: None = plain text.
    """

    address: str
    tls: ssl.SSLContext | None = None

    def connection(self) -> Connection:
        """A new connection, for one client."""
        return HttpConnection(self.address, self.tls)


def http_request(
    address: str, path: str, body: bytes, headers: tuple[tuple[str, str], ...] = (), method: str = "POST"
) -> bytes:
    """A whole request.

    Args:
        address: The server's `host:port`, for the Host header.
        path: E.g. `/v1/models/dense:predict`.
        body: May be empty.
        headers: More of them, e.g. `(("authorization", "Bearer …"),)`.
        method: POST or GET.

    Returns:
        The bytes to send.
    """
    host = "localhost" if address.startswith("unix:") else address
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


class HttpConnection(Connection):
    """See `HttpTarget`."""

    def __init__(self, address: str, tls: ssl.SSLContext | None) -> None:
        """Nothing is connected yet; see `Connection`."""
        super().__init__(address, tls)
        self._received: bytes | bytearray = b""
        self._status = b""
        self._body = 0  # where the body begins; 0 = the head is not complete
        self._length = 0
        self._chunk = 0  # where the next chunk begins
        self._keep_alive = True

    def _start(self, request: bytes) -> None:
        self._received, self._body = b"", 0
        assert self._transport is not None
        self._transport.write(request)

    def _read(self, data: bytes) -> None:
        """Reads on, until the answer is complete."""
        if not self._received:
            self._received = data  # most answers come in one piece: no copy
        else:
            if isinstance(self._received, bytes):
                self._received = bytearray(self._received)
            self._received += data
        if not self._body and not self._read_head():
            return
        if self._length >= 0:
            complete = len(self._received) >= self._body + self._length
        else:
            complete = self._length == _CHUNKED and self._read_chunks()
        if complete:
            self._complete()

    def connection_lost(self, error: Exception | None) -> None:
        """The end of an answer without a length; otherwise the end of the request."""
        self.closed = True  # before the client hears of the answer and wants to send its next request
        if self._body and self._length == _UNTIL_CLOSED and error is None:
            self._complete()
        super().connection_lost(error)

    def _complete(self) -> None:
        if not self._keep_alive and self._transport is not None:
            self.closed = True
            self._transport.close()
        if self._status.startswith(b"2"):
            self._finish(None)
        else:
            text = bytes(self._received[self._body : self._body + _TEXT_BYTES]).decode("utf-8", "replace")
            self._finish(f"HTTP {self._status.decode('latin-1')}", text)

    def _read_head(self) -> bool:
        """Whether the head is there; sets what is known from it."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._received[:end]).lower()
        self._status = head[9:12]
        if self._status.startswith(b"1"):  # "100 Continue": the answer proper follows
            self._received = self._received[end + 4 :]
            return self._read_head()
        self._body = self._chunk = end + 4
        self._keep_alive = b"\r\nconnection: close" not in head and (
            head.startswith(b"http/1.1") or b"\r\nconnection: keep-alive" in head
        )
        start = head.find(b"\r\ncontent-length:")
        if start >= 0:
            line_end = head.find(b"\r\n", start + 2)
            self._length = int(head[start + 17 : line_end if line_end >= 0 else None])
        elif b"\r\ntransfer-encoding:" in head:
            self._length = _CHUNKED
        else:
            self._length = 0 if self._status in (b"204", b"304") else _UNTIL_CLOSED
        return True

    def _read_chunks(self) -> bool:
        """Whether the last chunk has come."""
        while True:
            line_end = self._received.find(b"\r\n", self._chunk)
            if line_end < 0:
                return False
            size = int(bytes(self._received[self._chunk : line_end]).partition(b";")[0], 16)
            if size == 0:  # after it, fields may follow; an empty line ends them
                return self._received.find(b"\r\n\r\n", line_end) >= 0
            if len(self._received) < line_end + size + 4:
                return False
            self._chunk = line_end + size + 4
