"""What is sent again, when, and for how long; and how soon a server that was away is found."""

import time

import grpc
import pytest

from serving.client import ClientError
from serving.errors import Code


def failing(times, code=grpc.StatusCode.UNAVAILABLE):
    """A behaviour: the first calls fail, later ones are answered."""

    def behave(number, path, request, context):
        if number < times:
            context.abort(code, "not now")
        return b""

    return behave


def test_an_unavailable_server_is_asked_again(connect, small_server):
    server = small_server(failing(2))
    assert connect(server.target).predict("m", {}, request_id="one") == {}
    assert [metadata["x-request-id"] for _, _, metadata, _ in server.calls] == ["one"] * 3
    assert all(28 < seconds < 30 for *_, seconds in server.calls)  # one deadline for all attempts


def test_the_number_of_retries(connect, small_server):
    for retries in (0, 2):
        server = small_server(failing(100))
        with pytest.raises(ClientError, match=r"cannot answer now: not now") as caught:
            connect(server.target, retries=retries).predict("m", {})
        assert (caught.value.code, len(server.calls)) == (Code.UNAVAILABLE, retries + 1)


@pytest.mark.parametrize("code", set(grpc.StatusCode) - {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE})
def test_no_other_error_is_tried_again(connect, small_server, code):
    server = small_server(failing(1, code))
    with pytest.raises(ClientError) as caught:
        connect(server.target).predict("m", {})
    assert (caught.value.code.name, len(server.calls)) == (code.name, 1)


def test_a_limit_is_tried_again_on_request(connect, small_server):
    server = small_server(failing(2, grpc.StatusCode.RESOURCE_EXHAUSTED))
    assert connect(server.target, retry_exhausted=True).predict("m", {}) == {}
    assert len(server.calls) == 3


def test_retries_end_with_the_deadline(connect, small_server):
    server = small_server(failing(1000))
    client = connect(server.target, retries=1000)
    start = time.monotonic()
    with pytest.raises(ClientError) as caught:
        client.predict("m", {}, timeout=0.5)
    assert time.monotonic() - start < 0.7
    assert caught.value.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
    assert 2 <= len(server.calls) < 50
    assert all(seconds < 0.5 for *_, seconds in server.calls)


def test_the_server_learns_the_deadline(connect, server):
    import numpy as np

    client = connect(server.address)
    start = time.monotonic()
    with pytest.raises(ClientError, match=r"did not answer within 0.2 s") as caught:
        client.predict("linear", {"microseconds": np.int64(3_000_000)}, "slow", timeout=0.2)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert time.monotonic() - start < 0.6


def test_a_server_that_starts_late_is_found(connect, small_server, free_port):
    client = connect(f"127.0.0.1:{free_port}", retries=0)
    start = time.monotonic()
    with pytest.raises(ClientError, match=r"cannot be reached \(is one running there\?\)"):
        client.predict("m", {})
    assert time.monotonic() - start < 1
    while time.monotonic() < start + 3:  # the pauses between gRPC's attempts to connect grow meanwhile
        with pytest.raises(ClientError):
            client.predict("m", {})
        time.sleep(0.2)
    small_server(port=free_port)
    assert seconds_until_found(client) < 1


def test_a_server_that_restarts_is_found(connect, small_server):
    server = small_server()
    client = connect(server.target)
    assert client.predict("m", {}) == {}
    server.stop()
    with pytest.raises(ClientError):
        client.predict("m", {})
    small_server(port=server.port)
    assert seconds_until_found(client) < 1


def test_retries_bridge_a_restart(connect, small_server, free_port):
    import threading

    client = connect(f"127.0.0.1:{free_port}", retries=20)
    timer = threading.Timer(0.5, small_server, kwargs={"port": free_port})
    timer.start()
    assert client.predict("m", {}) == {}
    timer.join()


def seconds_until_found(client):
    start = time.monotonic()
    while True:
        try:
            client.predict("m", {})
        except ClientError:
            assert time.monotonic() < start + 5
            time.sleep(0.02)
        else:
            return time.monotonic() - start
