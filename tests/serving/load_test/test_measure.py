"""Counts and latencies against closed forms: a server whose answers take a known time, known numbers of clients."""

import socket
import threading
import time

import numpy as np
import pytest

from serving.load_test import HttpTarget, http_request, measure

REQUEST = http_request("127.0.0.1:1", "/", b"x")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def slow_server():
    """`slow_server(before)`: calls `before(number of the request)`, then answers; gives its target."""
    listeners = []

    def start(before):
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        listeners.append(listener)
        lock, numbers = threading.Lock(), iter(range(10**9))

        def answer(connection):
            with connection:
                while connection.recv(65536):
                    with lock:
                        number = next(numbers)
                    before(number)
                    connection.sendall(ANSWER)

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return HttpTarget(f"127.0.0.1:{listener.getsockname()[1]}")

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_closed_loop(slow_server):
    """Four clients, 20 ms each: nearly 200 requests a second."""
    target = slow_server(lambda number: time.sleep(0.02))
    result = measure(target, lambda: REQUEST, 4, 1, warm_up=0.2)
    assert (result.clients, result.seconds) == (4, pytest.approx(1, abs=0.01))
    assert 50 < result.requests_per_second <= 205
    assert abs(len(result.latencies_ms) - result.requests) <= 4
    assert 20 <= result.latencies_ms.min() < 40
    assert result.percentile(50) == np.percentile(result.latencies_ms, 50)
    assert result.errors == {}
    assert 0 < result.generator_load < 0.2


def test_open_loop_keeps_its_rate(slow_server):
    target = slow_server(lambda number: None)
    result = measure(target, lambda: REQUEST, 8, 1, rate=200, warm_up=0.2)
    assert 180 <= result.requests <= 205
    assert len(result.latencies_ms) == 200
    assert result.percentile(50) < 10


def test_open_loop_does_not_hide_a_stall(slow_server):
    """The server stands still for half a second: of 100 requests a second, 50 wait, 250 ms on average."""
    gate = threading.Lock()

    def before(number):
        with gate:
            if number == 60:
                time.sleep(0.5)

    target = slow_server(before)
    result = measure(target, lambda: REQUEST, 4, 1.5, rate=100, warm_up=0.3)  # fewer clients than requests that wait
    late = result.latencies_ms[result.latencies_ms > 20]
    assert len(result.latencies_ms) == 150
    assert 40 <= len(late) <= 75
    assert 440 <= late.max() <= 700
    assert 200 <= late.mean() <= 400
    assert result.errors == {}


def test_open_loop_counts_what_could_not_be_sent(slow_server):
    target = slow_server(lambda number: time.sleep(0.1))
    result = measure(target, lambda: REQUEST, 2, 1, rate=100, warm_up=0.1)
    (kind,) = result.errors
    assert kind == "not sent: every client was busy"
    assert result.errors[kind] + len(result.latencies_ms) == 100
    assert 10 <= result.requests <= 21


def test_the_warm_up_is_not_counted(slow_server):
    start = time.monotonic()
    target = slow_server(lambda number: time.sleep(0.3 if time.monotonic() < start + 0.4 else 0.001))
    result = measure(target, lambda: REQUEST, 1, 0.3, warm_up=0.8)
    assert result.latencies_ms.max() < 250


def test_a_load_ends_early_when_told(slow_server):
    target, stop = slow_server(lambda number: None), threading.Event()
    threading.Timer(0.4, stop.set).start()
    start = time.monotonic()
    result = measure(target, lambda: REQUEST, 1, 60, warm_up=0.1, stop=stop)
    assert time.monotonic() - start < 1
    assert result.seconds == pytest.approx(0.3, abs=0.1)
    stopped_open_loop = measure(target, lambda: REQUEST, 1, 60, rate=50, warm_up=0, stop=stop)
    assert stopped_open_loop.seconds < 0.2


def test_a_load_runs_beside_others(slow_server):
    """In threads, so that a test can do something to the server meanwhile."""
    target, results = slow_server(lambda number: time.sleep(0.005)), []
    threads = [
        threading.Thread(target=lambda: results.append(measure(target, lambda: REQUEST, 2, 0.3, warm_up=0.1)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result.requests > 10 and not result.errors for result in results)
