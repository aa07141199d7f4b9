"""One client's connection: its requests' answers in their order, its timers, and when it is read from."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.rest.http_messages import STATUS_LINES, HttpRequest, HttpResponse
from serving.rest.http_reader import RequestReader, Stage

if TYPE_CHECKING:
    from serving.rest.http_server import HttpServer

logger = logging.getLogger(__name__)

# A connection with so many requests that wait for their turn is not read from.
_MAX_PIPELINED = 16
# A client reads so much of its answer in `write_seconds`, or is let go.
_MIN_READ_BYTES = 256 * 1024


@dataclass(slots=True)
class _Due:
    """An answer that is due: `response` None = still to be found."""

    request: HttpRequest
    response: HttpResponse | None
    keep_alive_header: bool = False


class Connection(asyncio.Protocol):
    """A reader for what the client sends, a timer for that and one for what it reads, one task for the answers."""

    transport: asyncio.Transport  # both since `connection_made`
    reader: RequestReader

    def __init__(self, server: HttpServer) -> None:
        """Is made before there is a client.

        Args:
            server: Has the callbacks, the limits, and counts connections and bodies.
        """
        self.server = server
        self.limits = server.limits
        self.loop = asyncio.get_running_loop()
        self.due: deque[_Due] = deque()
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.write_timer: asyncio.TimerHandle | None = None
        self.writable: asyncio.Future[None] | None = None  # there while the client does not read
        self.unread_bytes = 0
        self.held_bytes = 0  # of bodies, as counted in `server.buffered_bytes`
        self.closing = False  # after the answers that are due, and the request that is arriving
        self.refused = False  # in the midst, perhaps, of what the client is sending

    # Of asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        address = transport.get_extra_info("peername")
        peer = address[0] if isinstance(address, tuple) else ""
        self.reader = RequestReader(self, self.server.admit, peer, self.limits)
        full = len(self.server.connections) >= self.limits.max_connections
        self.server.connections.add(self)
        if self.server.draining:
            self.close_when_done()
        elif full:
            self.deafen()
            self.send(_Due(self.reader.request(), self.error(503, "Too many connections")))
            self.close()
        else:
            self.set_timer(self.limits.header_seconds)

    def data_received(self, data: bytes) -> None:
        self.reader.feed(data)

    def eof_received(self) -> bool:
        # A client may close its side after its requests and still read the answers; half a request gets none. One that
        # has gone looks the same until it is written to.
        self.deafen()
        return self.task is not None and self.transport.can_write_eof()  # with TLS there is no half

    def connection_lost(self, error: Exception | None) -> None:
        self.deafen()
        self.server.connections.discard(self)
        self.release(self.held_bytes)
        self.due.clear()
        self.set_write_timer(None)
        if self.task is not None:
            self.task.cancel()  # nobody reads the answer any more

    def pause_writing(self) -> None:
        self.writable = self.loop.create_future()
        self.set_write_timer(self.limits.write_seconds)
        self.adjust_reading()

    def resume_writing(self) -> None:
        if not self.transport.is_closing():
            self.set_write_timer(None)
        if self.writable is not None and not self.writable.done():
            self.writable.set_result(None)
        self.writable = None
        self.adjust_reading()

    # Of the reader: see `Receiver`.

    def set_timer(self, seconds: float | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if seconds is not None:
            self.timer = self.loop.call_later(max(0.0, seconds), self.on_timer)

    def go_on(self) -> None:
        if self.task is None:
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def hold(self, number: int) -> bool:
        self.held_bytes += number
        self.server.buffered_bytes += number
        return self.server.buffered_bytes <= self.limits.max_buffered_bytes

    def receive(self, request: HttpRequest, refusal: HttpResponse | None, keep_alive_header: bool, last: bool) -> None:
        self.set_timer(None)
        if last:
            self.closing = True
        due = _Due(request, refusal, keep_alive_header)
        if refusal is not None and self.task is None:
            self.send(due)
            self.rest()
            return
        self.due.append(due)
        if self.task is None:
            self.task = self.loop.create_task(self.respond())
        elif len(self.due) == _MAX_PIPELINED:
            self.adjust_reading()

    def refuse(self, status: int, text: str) -> None:
        if self.reader.stage is not Stage.DEAF:
            self.finish(self.error(status, text))

    def finish(self, response: HttpResponse) -> None:
        due = _Due(self.reader.request(), response)
        self.deafen()
        self.refused = True
        if self.task is None:
            self.send(due)
            self.rest()
        else:
            self.due.append(due)

    # Ours.

    def deafen(self) -> None:
        """Reads no more requests, and closes when those that it has are answered."""
        self.closing = True
        self.reader.end()
        self.set_timer(None)

    def error(self, status: int, text: str) -> HttpResponse:
        return HttpResponse(status, self.server.error_body(text), (("Content-Type", "application/json"),))

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
        parts = [STATUS_LINES[response.status]]
        for name, value in response.headers:
            parts.append(f"{name}: {value}\r\n".encode("latin-1"))
        if self.closing and not self.due and not self.reader.arriving:
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
        if self.reader.arriving:
            return
        if not self.closing:
            self.set_timer(self.limits.idle_seconds)
        elif self.refused and self.transport.can_write_eof():
            if not self.transport.is_closing():
                self.transport.write_eof()
            self.adjust_reading()
            self.set_timer(self.limits.linger_seconds)
        else:
            self.close()

    def release(self, number: int) -> None:
        """Gives back the room of a body, unless the connection's end has done it already."""
        number = min(number, self.held_bytes)
        self.held_bytes -= number
        self.server.buffered_bytes -= number

    def adjust_reading(self) -> None:
        """Reads no more from a client that does not read, or that has asked for more than it is answered."""
        if self.transport.is_closing():
            return
        if not self.refused and (self.writable is not None or len(self.due) >= _MAX_PIPELINED):
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def on_timer(self) -> None:
        self.timer = None
        if self.reader.arriving:
            self.refuse(408, "The request took too long to arrive")
        else:
            self.close()

    def set_write_timer(self, seconds: float | None) -> None:
        if self.write_timer is not None:
            self.write_timer.cancel()
            self.write_timer = None
        if seconds is not None:
            self.unread_bytes = self.transport.get_write_buffer_size()
            self.write_timer = self.loop.call_later(seconds, self.on_write_timer)

    def on_write_timer(self) -> None:
        self.write_timer = None
        if self.unread_bytes - self.transport.get_write_buffer_size() < _MIN_READ_BYTES:
            self.transport.abort()
        else:
            self.set_write_timer(self.limits.write_seconds)

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Closes when the last answer is on its way; a client that does not take it is not waited for."""
        self.set_timer(None)
        self.transport.close()
        self.set_write_timer(self.limits.write_seconds)

    def abort(self) -> None:
        """Closes now, whatever is under way."""
        self.transport.abort()

    def close_when_done(self) -> None:
        """Closes now, or after the answers under way."""
        self.closing = True
        if self.task is None and not self.reader.arriving:
            self.close()
