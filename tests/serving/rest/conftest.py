"""Signatures to read requests by, and the HTTP transport alone."""

import asyncio
import contextlib
import json
import socket
import threading
import time

import pytest
import uvloop
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from serving.errors import Code, ServingError
from serving.rest.json_request import parse_predict


def make_signature(**dtypes):
    """A SignatureDef with inputs of these dtypes: `make_signature(x="FLOAT")`."""
    signature = meta_graph_pb2.SignatureDef()
    for name, dtype in dtypes.items():
        signature.inputs[name].dtype = types_pb2.DataType.Value(f"DT_{dtype}")
        signature.inputs[name].name = f"{name}:0"
    return signature


@pytest.fixture(scope="session")
def read():
    """Reads a Predict body for a model with one signature: `read(body, x="FLOAT")`."""

    def read(body, **dtypes):
        body = body if isinstance(body, bytes) else body.encode()
        return parse_predict(body, {"serving_default": make_signature(**dtypes)})

    return read


@pytest.fixture(scope="session")
def refusal(read):
    """The text of the INVALID_ARGUMENT (or another code) that a Predict body is refused with."""

    def refusal(body, code=Code.INVALID_ARGUMENT, **dtypes):
        with pytest.raises(ServingError) as caught:
            read(body, **dtypes)
        assert caught.value.code == code
        return caught.value.message

    return refusal


@pytest.fixture
def http():
    """Starts the HTTP transport alone, on an event loop of its own: `http(answer, seconds…)`; nothing may be left."""
    started = []

    def start(answer=None, tls=None, admit=None, **limits):
        started.append(Transport(answer, tls, admit, limits))
        return started[-1]

    yield start
    for transport in started:
        transport.end()


class Transport:
    """`HttpServer` in a thread, and raw sockets to it."""

    def __init__(self, answer, tls, admit, limits):
        from serving.rest.http_messages import HttpLimits, HttpResponse
        from serving.rest.http_server import HttpServer

        async def echo(request):
            return HttpResponse(200, request.method.encode() + b" " + request.path.encode() + b" " + request.body)

        self.done = []  # (path, status) as the access log is told
        self.loop = uvloop.new_event_loop()
        self.server = HttpServer(
            admit or (lambda method, path, headers, peer: "somebody"),
            answer or echo,
            lambda text: json.dumps({"error": text}).encode(),
            lambda request, response: self.done.append((request.path, response.status)),
            HttpLimits(**{"linger_seconds": 0.1, **limits}),
        )
        self.sockets = []
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.run(self.server.start(listener, tls))
        host, _, port = self.server.address.rpartition(":")
        self.address = host, int(port)

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def connect(self, data=b"", receive_buffer=None):
        client = socket.socket()
        client.settimeout(10)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(self.address)
        client.sendall(data)
        self.sockets.append(client)
        return client

    def ask(self, data):
        """All that comes back until the server closes."""
        return read_all(self.connect(data))

    def nothing_left(self, seconds=5.0):
        """Waits until there is neither a connection, nor a body, nor a task."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            left = len(self.server.connections), self.server.buffered_bytes, len(asyncio.all_tasks(self.loop))
            if left == (0, 0, 0):
                return
            time.sleep(0.01)
        raise AssertionError(f"left: {left[0]} connections, {left[1]} bytes of bodies, {left[2]} tasks")

    def end(self):
        for client in self.sockets:
            client.close()
        try:
            self.nothing_left()
            self.run(self.server.stop(0))
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()


def read_all(client):
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)
