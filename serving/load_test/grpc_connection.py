"""gRPC for the load generator: as much of HTTP/2 as one unary call at a time on a connection needs.

gRPC's own Python client spends some 100 µs of processor time on a call, which is more than a small model's server
does; this one a tenth of that. What goes over the wire is the same but for the headers' compression, which is off in
both directions: then the trailers of a good answer are the same bytes each time.

Reference:
    RFC 9113 (HTTP/2), RFC 7541 (HPACK), https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import ssl
import struct
from dataclasses import dataclass
from urllib.parse import unquote

from serving.errors import Code
from serving.load_test.connection import Connection

PREDICT = "/tensorflow.serving.PredictionService/Predict"

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM = _ACK = 1
_END_HEADERS, _PADDED, _PRIORITY = 4, 8, 32
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 1, 2, 4, 5
_LARGEST_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 65535
_FRAME_HEAD = 9
# "grpc-status" in HPACK's Huffman code; servers written in Go send it so. Status numbers are too short to be coded.
_HUFFMAN_GRPC_STATUS = bytes.fromhex("9acac8b21234da8f")


@dataclass(frozen=True)
class GrpcTarget:
    """A server that is asked over gRPC; requests are serialised messages.

    Attributes:
        address: `host:port` or `unix:/path/of/socket`.
        method: The call's path.
        metadata: More headers, e.g. `(("authorization", "Bearer …"),)`.
        timeout: The deadline sent with each request, in seconds.
        tls: None = plain text.
    """

    address: str
    method: str = PREDICT
    metadata: tuple[tuple[str, str], ...] = ()
    timeout: float = 30.0
    tls: ssl.SSLContext | None = None

    def connection(self) -> Connection:
        """A new connection, for one client."""
        return GrpcConnection(self)


class GrpcConnection(Connection):
    """See `GrpcTarget`."""

    def __init__(self, target: GrpcTarget) -> None:
        """Nothing is connected yet; see `Connection`."""
        super().__init__(target.address, target.tls)
        self._block = _header_block(target)
        self._received = b""
        self._stream = -1
        self._trailers = b""
        self._is_end = False
        self._unsent = memoryview(b"")
        self._connection_window = self._first_window = self._stream_window = _DEFAULT_WINDOW
        self._frame_size = 16384
        self._unacknowledged = 0
        self._going_away = False

    def _greet(self) -> None:
        settings = ((_HEADER_TABLE_SIZE, 0), (_ENABLE_PUSH, 0), (_INITIAL_WINDOW_SIZE, _LARGEST_WINDOW))
        self._write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            _frame(_SETTINGS, 0, 0, b"".join(struct.pack(">HI", *setting) for setting in settings)),
            _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _LARGEST_WINDOW - _DEFAULT_WINDOW)),
        )

    def _start(self, request: bytes) -> None:
        self._stream += 2
        self._stream_window = self._first_window
        message = b"\0" + len(request).to_bytes(4, "big") + request
        headers = _frame(_HEADERS, _END_HEADERS, self._stream, self._block)
        if len(message) <= min(self._frame_size, self._connection_window, self._stream_window):
            self._connection_window -= len(message)
            self._write(headers, _frame(_DATA, _END_STREAM, self._stream, message))
        else:
            self._write(headers)
            self._unsent = memoryview(message)
            self._send_more()

    def _send_more(self) -> None:
        """As much of a long request as the server has allowed so far."""
        while self._unsent:
            size = min(len(self._unsent), self._frame_size, self._connection_window, self._stream_window)
            if size <= 0:
                return
            part, self._unsent = self._unsent[:size], self._unsent[size:]
            self._connection_window -= size
            self._stream_window -= size
            self._write(_frame(_DATA, 0 if self._unsent else _END_STREAM, self._stream, bytes(part)))

    def _read(self, data: bytes) -> None:
        """Reads the frames that are complete."""
        if self._received:
            data = self._received + data
        position, size = 0, len(data)
        while size - position >= _FRAME_HEAD:
            end = position + _FRAME_HEAD + int.from_bytes(data[position : position + 3], "big")
            if end > size:
                break
            kind, flags = data[position + 3], data[position + 4]
            if kind == _DATA:
                self._unacknowledged += end - position - _FRAME_HEAD
                if flags & _END_STREAM:  # gRPC ends with trailers: this server does not speak it
                    self._finish("INTERNAL", "the answer ended without trailers")
            else:
                stream = int.from_bytes(data[position + 5 : position + 9], "big") & _LARGEST_WINDOW
                self._control(kind, flags, stream, data[position + _FRAME_HEAD : end])
            position = end
        self._received = data[position:]

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (_HEADERS, _CONTINUATION):
            self._on_headers(kind, flags, payload)
        elif kind == _SETTINGS and not flags & _ACK:
            self._on_settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, payload))
        elif kind == _WINDOW_UPDATE:
            increment = int.from_bytes(payload, "big")
            if stream == 0:
                self._connection_window += increment
            elif stream == self._stream:
                self._stream_window += increment
            self._send_more()
        elif kind == _RST_STREAM and stream == self._stream:
            self._unsent = memoryview(b"")
            if self._done is not None:
                self._finish("INTERNAL", f"stream reset with HTTP/2 error {int.from_bytes(payload, 'big')}")
        elif kind == _GOAWAY:
            # A request under way is still answered if the server says that it has seen it.
            self._going_away = True
            if self._done is None or self._stream > int.from_bytes(payload[:4], "big"):
                self.give_up("UNAVAILABLE", payload[8:].decode("utf-8", "replace"))

    def _on_headers(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _HEADERS:
            padding = payload[0] if flags & _PADDED else 0
            start = (1 if flags & _PADDED else 0) + (5 if flags & _PRIORITY else 0)
            self._trailers = payload[start : len(payload) - padding]
            self._is_end = bool(flags & _END_STREAM)
        else:
            self._trailers += payload
        if not flags & _END_HEADERS or not self._is_end:
            return
        error, text = _OUTCOMES.get(self._trailers) or _outcome(self._trailers)
        if self._unsent:  # refused before it was read
            self._unsent = memoryview(b"")
            self._write(_frame(_RST_STREAM, 0, self._stream, struct.pack(">I", 8)))
        if self._unacknowledged > _LARGEST_WINDOW // 2:
            self._write(_frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._unacknowledged)))
            self._unacknowledged = 0
        if self._going_away and self._transport is not None:
            self.closed = True
            self._transport.close()
        self._finish(error, text)

    def _on_settings(self, payload: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", payload):
            if name == _INITIAL_WINDOW_SIZE:
                self._stream_window += value - self._first_window
                self._first_window = value
            elif name == _MAX_FRAME_SIZE:
                self._frame_size = value
        self._write(_frame(_SETTINGS, _ACK, 0, b""))
        self._send_more()

    def _write(self, *parts: bytes) -> None:
        assert self._transport is not None
        self._transport.write(b"".join(parts))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + payload


def _header_block(target: GrpcTarget) -> bytes:
    """A call's headers in HPACK, each a literal that is not to be remembered."""
    authority = "localhost" if target.address.startswith("unix:") else target.address
    headers = (
        (":method", "POST"),
        (":scheme", "https" if target.tls else "http"),
        (":path", target.method),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("grpc-timeout", f"{round(target.timeout * 1000)}m"),
        *target.metadata,
    )
    return b"".join(b"\0" + _string(name.lower()) + _string(value) for name, value in headers)


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    if len(data) < 127:
        return bytes([len(data)]) + data
    length, rest = bytearray([127]), len(data) - 127
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes(length) + bytes([rest]) + data


_CODE_NAMES = {code.value: code.name for code in Code}

# What blocks of trailers mean; a server sends the same few over and over.
_OUTCOMES: dict[bytes, tuple[str | None, str]] = {}


def _outcome(block: bytes) -> tuple[str | None, str]:
    """The error's name (None for OK) and its text."""
    headers = _headers(block)
    if not headers.get("grpc-status", "").isdigit():
        return ("INTERNAL", f"no gRPC status in the answer; its headers: {headers}")
    number = int(headers["grpc-status"])
    name = _CODE_NAMES.get(number, f"code {number}") if number else None
    result = name, unquote(headers.get("grpc-message", ""))
    if len(_OUTCOMES) < 100:
        _OUTCOMES[block] = result
    return result


def _headers(block: bytes) -> dict[str, str]:
    """The literal headers of an HPACK block whose sender has no table."""
    headers, position = {}, 0
    while position < len(block):
        first = block[position]
        if first >= 0x80:  # one of the static table: none that matters here
            _, position = _integer(block, position, 7)
            continue
        if first >= 0x20 and first < 0x40:  # the table's new size
            _, position = _integer(block, position, 5)
            continue
        index, position = _integer(block, position, 6 if first >= 0x40 else 4)
        name, position = (str(index), position) if index else _text(block, position)
        headers[name], position = _text(block, position)
    return headers


def _text(block: bytes, position: int) -> tuple[str, int]:
    is_huffman = block[position] >= 0x80
    length, position = _integer(block, position, 7)
    data = block[position : position + length]
    if is_huffman:
        text = "grpc-status" if data == _HUFFMAN_GRPC_STATUS else f"(Huffman {data.hex()})"
    else:
        text = data.decode("utf-8", "replace")
    return text, position + length


def _integer(block: bytes, position: int, bits: int) -> tuple[int, int]:
    """HPACK's integer: in the low bits of a byte, and in more bytes where they do not suffice."""
    value = block[position] & (1 << bits) - 1
    position += 1
    if value < (1 << bits) - 1:
        return value, position
    shift = 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position
