"""The load generator's own HTTP and HTTP/2 against answers of every form, and against gRPC's own server."""

import itertools
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import pytest

from serving.load_test import GrpcTarget, HttpTarget, http_request, measure

REQUEST = http_request("127.0.0.1:1", "/v1/models/m:predict", b'{"instances": [1]}', (("x-a", "b"),))
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def http_server():
    """`http_server(pieces, closing)`: sends the pieces, apart, as the answer to each request; gives its address."""
    listeners = []

    def start(pieces, closing=False):
        listener = socket.create_server(("127.0.0.1", 0))
        requests = []
        listeners.append(listener)

        def answer(connection):
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while True:
                    received = b""
                    while not received.endswith(b'{"instances": [1]}'):
                        data = connection.recv(65536)
                        if not data:
                            return
                        received += data
                    requests.append(received)
                    for number, piece in enumerate(pieces):
                        if number:
                            time.sleep(0.002)
                        connection.sendall(piece)
                    if closing:
                        return

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}", requests

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def load(target, request=REQUEST, clients=2, seconds=0.15, **options):
    # Without a warm-up every request counts, however slow the machine is at the moment.
    return measure(target, lambda: request, clients, seconds, warm_up=0, **options)


LENGTH = [OK + b"Content-Length: 5\r\n\r\nhello"]
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA;x=y\r\n 123456789\r\n0\r\n\r\n"
GOOD = {
    "length": (LENGTH, False),
    "length in pieces": ([b"HTTP/1", b".1 200 OK\r\nCONTENT-LENGTH:", b"5\r\nDate: x\r\n\r", b"\nhel", b"lo"], False),
    "nothing": ([b"HTTP/1.1 204 No Content\r\n\r\n"], False),
    "empty": ([OK + b"Content-Length: 0\r\n\r\n"], False),
    "chunked": ([CHUNKED], False),
    "chunked in pieces": ([CHUNKED[:50], CHUNKED[50:60], CHUNKED[60:-3], CHUNKED[-3:]], False),
    "chunked with fields after it": ([CHUNKED[:-2] + b"Trailer: yes\r\n\r\n"], False),
    "continue": ([b"HTTP/1.1 100 Continue\r\n\r\n", *LENGTH], False),
    "connection: close": ([OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello"], True),
    "until closed": ([OK + b"Server: x\r\n\r\nhel", b"lo"], True),
    "HTTP/1.0": ([b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"], True),
    "HTTP/1.0 kept alive": ([b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello"], False),
}


@pytest.mark.parametrize("case", GOOD)
def test_good_http_answers(http_server, case):
    address, requests = http_server(*GOOD[case])
    result = load(HttpTarget(address))
    assert result.errors == {}
    assert len(result.latencies_ms) >= 2
    assert set(requests) == {REQUEST}
    assert len(requests) == len(result.latencies_ms)


def test_bad_http_answers(http_server):
    refused = b'HTTP/1.1 503 Busy\r\nContent-Length: 18\r\n\r\n{"error": "queue"}'
    for pieces, closing, kind, text in (
        ([refused], False, "HTTP 503", '{"error": "queue"}'),
        ([LENGTH[0][:-1]], True, "connection lost", "closed by the server"),
        ([CHUNKED[:-2]], True, "connection lost", "closed by the server"),
        ([b"HTTP/1.1 200"], True, "connection lost", "closed by the server"),
        ([OK + b"Content-Length: x\r\n\r\n"], False, "answer not understood", "invalid literal"),
        ([CHUNKED.replace(b"A;", b"G;")], False, "answer not understood", "invalid literal"),
    ):
        address, _ = http_server(pieces, closing)
        result = load(HttpTarget(address))
        assert (set(result.errors), result.requests, len(result.latencies_ms)) == ({kind}, 0, 0)
        assert result.errors[kind] == len(result.error_latencies_ms) >= 2
        assert text in result.error_texts[kind]


def test_a_server_that_does_not_answer(http_server):
    address, _ = http_server([])
    result = load(HttpTarget(address), timeout=0.1)
    assert set(result.errors) == {"no answer in time"}
    assert result.error_texts == {"no answer in time": "none within 0.1 s"}
    assert result.error_latencies_ms.min() >= 100


def test_a_server_that_is_not_there():
    for target in (HttpTarget("127.0.0.1:1"), GrpcTarget("127.0.0.1:1"), GrpcTarget("unix:/nowhere/socket")):
        result = load(target)
        assert (set(result.errors), result.requests) == ({"cannot connect"}, 0)
        assert result.errors["cannot connect"] < 50  # with pauses: it does not burn the processor


@pytest.fixture
def grpc_server():
    """Starts gRPC's own server; its call gives back the request, or fails if that says so."""
    servers = []

    def start(address="127.0.0.1:0", options=(("grpc.max_receive_message_length", -1),)):
        server = grpc.server(ThreadPoolExecutor(4), options=options)
        seen = []

        def behave(request, context):
            seen.append((request, dict(context.invocation_metadata()), context.time_remaining()))
            if request.startswith(b"fail"):
                number = int(request[4:])
                code = next(code for code in grpc.StatusCode if code.value[0] == number)
                context.abort(code, "nicht möglich: 100 %")
            return request

        methods = {"Predict": grpc.unary_unary_rpc_method_handler(behave)}
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", methods),)
        )
        port = server.add_insecure_port(address)
        server.start()
        servers.append(server)
        return SimpleNamespace(port=port, seen=seen)

    yield start
    for server in servers:
        server.stop(0).wait()


def test_grpc_requests_of_every_size(grpc_server):
    server = grpc_server()
    target = GrpcTarget(f"127.0.0.1:{server.port}", metadata=(("x-a", "b" * 200),), timeout=7)
    requests = [b"", b"a", b"b" * 16384, b"c" * 70000, b"d" * 3_000_000]
    result = measure(target, itertools.cycle(requests).__next__, 3, 1, warm_up=0.1)
    assert result.errors == {}
    assert result.requests > 10
    assert {request for request, *_ in server.seen} == set(requests)
    assert all(metadata["x-a"] == "b" * 200 and 5 < seconds <= 7 for _, metadata, seconds in server.seen)


@pytest.mark.parametrize("number", range(1, 17))
def test_grpc_errors(grpc_server, number):
    server = grpc_server()
    result = load(GrpcTarget(f"127.0.0.1:{server.port}"), b"fail%d" % number, seconds=0.1)
    name = next(code for code in grpc.StatusCode if code.value[0] == number).name
    assert set(result.errors) == {name}
    assert result.error_texts == {name: "nicht möglich: 100 %"}
    assert result.errors[name] >= 2


def test_grpc_refusals_before_the_call(grpc_server):
    server = grpc_server(options=[("grpc.max_receive_message_length", 100_000)])
    address = f"127.0.0.1:{server.port}"
    result = load(GrpcTarget(address, method="/a.B/C"), b"")
    assert result.error_texts == {"UNIMPLEMENTED": "Method not found!"}
    result = load(GrpcTarget(address), b"x" * 1_000_000)  # refused while it is still being sent
    assert set(result.errors) == {"RESOURCE_EXHAUSTED"}
    assert load(GrpcTarget(address), b"x").errors == {}


def test_a_grpc_server_that_renews_its_connections_loses_no_request(grpc_server):
    server = grpc_server(options=[("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 1000)])
    result = load(GrpcTarget(f"127.0.0.1:{server.port}"), b"x", clients=4, seconds=1)
    assert result.errors == {}
    assert result.requests > 20


def test_a_unix_socket(grpc_server, tmp_path):
    grpc_server(f"unix:{tmp_path}/socket")
    assert load(GrpcTarget(f"unix:{tmp_path}/socket"), b"x").errors == {}


def test_http_instead_of_grpc_and_grpc_instead_of_http(grpc_server, http_server):
    address, _ = http_server(LENGTH)
    server = grpc_server()
    assert load(GrpcTarget(address), REQUEST, timeout=0.2).requests == 0
    assert load(HttpTarget(f"127.0.0.1:{server.port}"), timeout=0.2).requests == 0


def test_garbage_in_place_of_http2_ends_every_request(http_server):
    rubbish = random.Random(1)
    for _ in range(25):
        kinds = rubbish.choices([0, 1, 1, 3, 4, 6, 7, 8, 9, 77], k=4)
        frames = [
            len(payload := rubbish.randbytes(rubbish.randrange(12))).to_bytes(3, "big")
            + bytes([kind, rubbish.choice([0, 1, 4, 5, 8, 13, 32]), 0, 0, 0, rubbish.choice([0, 1])])
            + payload
            for kind in kinds
        ]
        address, _ = http_server([b"".join(frames)], closing=True)
        # The request ends in what the server takes for the end of one.
        result = load(GrpcTarget(address), REQUEST, clients=1, seconds=0.02, timeout=0.1)
        assert result.requests == 0
