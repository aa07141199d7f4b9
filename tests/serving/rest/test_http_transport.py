"""The HTTP transport against clients that are slow, greedy, broken or hostile. After each test nothing may be left."""

import asyncio
import contextlib
import re
import socket
import struct
import time

import pytest

from serving.rest.http_messages import HttpResponse

GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
CHUNKED = b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


def statuses(answer):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]


def bodies(answer):
    """The bodies of all answers, in their order."""
    found = []
    while answer:
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        found.append(rest[:length])
        answer = rest[length:]
    return found


def until_it_fails(action, pause=0.02, seconds=5.0):
    """Repeats what a socket will refuse sooner or later; returns how often that went well."""
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        try:
            action()
        except OSError:
            return count
        count += 1
        time.sleep(pause)
    raise AssertionError(f"went well for {seconds} s")


def reset(client):
    """Ends a connection as a process does that dies with something unread."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


async def slow(request):
    await asyncio.sleep(0.3)
    return HttpResponse(200, request.path.encode())


# Clients that take their time.


def test_headers_that_come_byte_by_byte(http):
    client = http(header_seconds=0.4).connect()
    started = time.monotonic()
    client.settimeout(0.05)
    answer = b""
    for byte in GET * 3:
        try:
            client.sendall(bytes([byte]))
            answer = client.recv(1000)
            break
        except TimeoutError:
            continue
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"Connection: close" in answer
    assert time.monotonic() - started < 1.0


def test_the_time_for_headers_holds_for_every_request_of_a_connection(http):
    assert statuses(http(header_seconds=0.2).ask(GET + b"GET /b HT")) == [200, 408]


def test_headers_that_stop_while_an_earlier_request_is_answered(http):
    assert statuses(http(slow, header_seconds=0.1).ask(GET + b"GET /b HT")) == [200, 408]


def test_a_connection_that_says_nothing(http):
    assert http(header_seconds=0.1).ask(b"") == b""


def test_empty_lines_keep_no_connection_open(http):
    client = http(header_seconds=0.3).connect()
    until_it_fails(lambda: client.sendall(b"\r\n"), pause=0.05)


def test_an_idle_connection_is_closed(http):
    assert statuses(http(idle_seconds=0.1).ask(GET)) == [200]


def test_an_idle_connection_of_a_stranger_is_closed(http):
    refused = HttpResponse(401, b"who?")
    transport = http(admit=lambda *head: refused, idle_seconds=0.1)
    assert bodies(transport.ask(GET + GET)) == [b"who?", b"who?"]


@pytest.mark.parametrize("head", [b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc", CHUNKED + b"a\r\nabc"])
def test_a_body_that_does_not_come(http, head):
    transport = http(request_seconds=0.2)
    assert statuses(transport.ask(head)) == [408]
    transport.nothing_left()


# Clients that send too much.


def test_a_declared_body_that_is_too_large_is_not_read(http):
    client = http(max_body_bytes=1000).connect(b"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n")
    assert client.recv(1000).startswith(b"HTTP/1.1 413 ")
    assert client.recv(1000) == b""


def test_a_client_in_the_midst_of_a_large_body_reads_why_it_was_refused(http):
    """Closed at once, the rest of the body would be answered by a reset, which may overtake the refusal."""
    transport = http(max_body_bytes=1000, linger_seconds=5.0)
    client = transport.connect(b"POST / HTTP/1.1\r\nContent-Length: 50000000\r\n\r\n")
    client.sendall(bytes(20_000_000))
    assert statuses(client.recv(1000)) == [413]
    client.close()
    transport.nothing_left()


def test_a_refused_client_cannot_go_on_for_ever(http):
    client = http(max_body_bytes=1000, linger_seconds=0.2).connect(b"POST / HTTP/1.1\r\nContent-Length: 9999\r\n\r\n")
    until_it_fails(lambda: client.sendall(b"x"))


def test_a_body_in_chunks_that_becomes_too_large(http):
    transport = http(max_body_bytes=1000)
    chunk = b"100\r\n" + b"x" * 256 + b"\r\n"
    assert statuses(transport.ask(CHUNKED + chunk * 5)) == [413]
    assert bodies(transport.ask(CHUNKED + chunk * 3 + b"0\r\n\r\n" + LAST))[0] == b"POST /c " + b"x" * 768


def test_too_many_bodies_at_once(http):
    async def never(request):
        await asyncio.sleep(60)

    transport = http(never, max_buffered_bytes=1000)
    first = transport.connect(b"POST / HTTP/1.1\r\nContent-Length: 600\r\n\r\n" + bytes(600))
    while transport.server.buffered_bytes < 600:
        time.sleep(0.01)
    # The first request's body counts until it is answered.
    assert statuses(transport.ask(b"POST / HTTP/1.1\r\nContent-Length: 600\r\n\r\n" + bytes(600))) == [503]
    reset(first)
    transport.nothing_left()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nA: " + b"x" * 140_000,
        b"GET / HTTP/1.1\r\nA: " + b"x" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 129 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 30_000 + b"\r\n",
    ],
    ids=["endless", "large", "many", "very many"],
)
def test_headers_that_are_too_large(http, data):
    client = http().connect()
    for start in range(0, len(data), 65_000):
        client.sendall(data[start : start + 65_000])
        time.sleep(0.05)
    assert statuses(client.recv(1000)) == [431]


def test_a_path_that_is_too_long(http):
    assert statuses(http().ask(b"GET /" + b"x" * 65_536 + b" HTTP/1.1\r\n\r\n")) == [414]


@pytest.mark.parametrize("stray", [b"0\r\n" + b"Field: x\r\n" * 40_000, b"5;" + b"x" * 400_000], ids=["after", "in"])
def test_what_comes_with_the_chunks_is_limited(http, stray):
    client = http().connect(CHUNKED + b"3\r\nabc\r\n")
    client.sendall(stray)
    assert statuses(client.recv(1000)) == [431]


def test_a_body_that_comes_at_once_is_not_taken_for_what_comes_with_chunks(http):
    transport = http()
    client = transport.connect(b"POST /a HTTP/1.1\r\nContent-Length: 70000\r\n\r\n")
    time.sleep(0.05)
    transport.loop.call_soon_threadsafe(time.sleep, 0.1)  # meanwhile the rest comes, to be read as one
    client.sendall(bytes(70_000) + b"POST /b HTTP/1.1\r\nContent-Length: 3\r\n\r\n")
    time.sleep(0.2)
    client.sendall(b"abc" + LAST)
    assert statuses(b"".join(iter(lambda: client.recv(99_999), b""))) == [200, 200, 200]


def test_fields_after_the_body_are_not_believed(http):
    seen = []

    async def note(request):
        seen.append(request.headers)
        return HttpResponse(200)

    trailers = b"3\r\nabc\r\n0\r\nAuthorization: Bearer x\r\nContent-Encoding: gzip\r\n\r\n"
    assert statuses(http(note).ask(CHUNKED + trailers + LAST)) == [200, 200]
    assert seen[0] == {"transfer-encoding": "chunked"}


def test_too_many_connections(http):
    transport = http(max_connections=2)
    first, second = transport.connect(GET), transport.connect(GET)
    assert statuses(first.recv(1000)) == statuses(second.recv(1000)) == [200]
    assert statuses(transport.ask(b"")) == [503]
    first.close()
    second.close()
    transport.nothing_left()
    assert statuses(transport.ask(LAST)) == [200]


# Clients that do not read.


@pytest.mark.parametrize("size", [50_000_000, 3_000_000], ids=["one answer", "many answers"])
def test_a_client_that_does_not_read(http, size):
    asked = []

    async def large(request):
        asked.append(1)
        return HttpResponse(200, bytes(size))

    transport = http(large, write_seconds=0.3)
    transport.connect(GET * 300, receive_buffer=4096)
    time.sleep(0.2)
    assert len(asked) <= 4  # no more is computed than fits
    transport.nothing_left()


def test_a_stranger_that_does_not_read_is_not_read_from(http):
    transport = http(admit=lambda *head: HttpResponse(401, bytes(1000)), write_seconds=0.5)
    client = transport.connect(receive_buffer=4096)
    client.settimeout(0.2)
    sent = until_it_fails(lambda: client.send(GET * 1000), pause=0)
    assert sent * len(GET * 1000) < 20_000_000
    transport.nothing_left()


def test_a_client_that_reads_slowly_gets_its_answer(http):
    async def large(request):
        return HttpResponse(200, bytes(6_000_000))

    client = http(large, write_seconds=0.25).connect(LAST, receive_buffer=1 << 16)
    received = 0
    while part := client.recv(200_000):
        received += len(part)
        time.sleep(0.01)
    assert received > 6_000_000


# Connections that end.


def test_half_closed_before_a_request(http):
    client = http().connect()
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1000) == b""


@pytest.mark.parametrize("part", [b"GET /a HT", b"POST /a HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"])
def test_half_closed_in_the_midst_of_a_request(http, part):
    transport = http()
    client = transport.connect(part)
    client.shutdown(socket.SHUT_WR)
    assert client.recv(1000) == b""
    transport.nothing_left()


def test_half_closed_after_requests_gets_all_answers(http):
    client = http(slow).connect(GET + LAST.replace(b"Connection: close\r\n", b""))
    client.shutdown(socket.SHUT_WR)
    started = time.monotonic()
    answer = b"".join(iter(lambda: client.recv(1000), b""))
    assert bodies(answer) == [b"/a", b"/last"]
    assert answer.count(b"Connection: close") == 1
    assert time.monotonic() - started < 2.0


def test_a_client_that_goes_away_cancels_its_request(http):
    transport = http(slow)
    client = transport.connect(GET + GET)
    while not asyncio.all_tasks(transport.loop):
        time.sleep(0.005)
    reset(client)
    transport.nothing_left(0.25)
    assert transport.done == [("/a", 499)]


def test_a_client_that_closes_leaves_nothing_when_its_request_is_done(http):
    transport = http(slow)
    transport.connect(GET).close()
    time.sleep(0.05)
    transport.nothing_left(0.5)


def test_a_thousand_clients_that_go_away(http):
    transport = http(slow)
    for number in range(1000):
        transport.connect([GET, GET[:20], CHUNKED + b"5\r\nabc", b"\x00", b""][number % 5]).close()
    transport.nothing_left()


def test_a_graceful_stop(http):
    transport = http(slow)
    idle, asking, sending = transport.connect(), transport.connect(GET + GET), transport.connect(CHUNKED + b"3\r\nabc")
    time.sleep(0.1)
    stopping = asyncio.run_coroutine_threadsafe(transport.server.stop(5.0), transport.loop)
    assert idle.recv(1000) == b""
    until_it_fails(transport.connect)
    sending.sendall(b"\r\n0\r\n\r\n" + GET)
    for client, number in ((asking, 2), (sending, 1)):
        answer = b"".join(iter(lambda client=client: client.recv(1000), b""))
        assert statuses(answer) == [200] * number
        assert answer.count(b"Connection: close") == 1
    stopping.result(3)


def test_a_stop_that_is_in_a_hurry(http):
    transport = http(slow)
    client = transport.connect(GET)
    time.sleep(0.05)
    started = time.monotonic()
    transport.run(transport.server.stop(0.1))
    assert time.monotonic() - started < 0.25
    with contextlib.suppress(ConnectionResetError):
        assert client.recv(1000) == b""
