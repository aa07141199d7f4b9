"""Where requests begin and end: what is understood, and what is refused because others may understand it otherwise."""

import datetime
import re
import socket
import ssl
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from serving.rest.http_messages import HttpResponse
from serving.security.tls import TlsSettings, ssl_context

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def statuses(answer):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", answer)]


def post(headers, body=b"", version=b"1.1"):
    return b"POST /p HTTP/" + version + b"\r\nHost: h\r\n" + headers + b"\r\n\r\n" + body


CHUNKED = b"Transfer-Encoding: chunked"
REFUSED = {
    "length and chunks": post(b"Content-Length: 5\r\n" + CHUNKED, b"0\r\n\r\n"),
    "chunks and length": post(CHUNKED + b"\r\nContent-Length: 5", b"0\r\n\r\n"),
    "two lengths": post(b"Content-Length: 3\r\nContent-Length: 4", b"abc"),
    "the same length twice": post(b"Content-Length: 3\r\nContent-Length: 3", b"abc"),
    "a list of lengths": post(b"Content-Length: 3, 3", b"abc"),
    "a sign": post(b"Content-Length: +3", b"abc"),
    "a negative length": post(b"Content-Length: -3", b"abc"),
    "a hexadecimal length": post(b"Content-Length: 0x3", b"abc"),
    "an empty length": post(b"Content-Length:", b"abc"),
    "an endless length": post(b"Content-Length: " + b"9" * 5000, b"abc"),
    "two codings": post(CHUNKED + b"\r\nTransfer-Encoding: identity", b"0\r\n\r\n"),
    "chunks twice": post(b"Transfer-Encoding: chunked, chunked", b"0\r\n\r\n"),
    "a hidden coding": post(b"Transfer-Encoding:\x0bchunked", b"0\r\n\r\n"),
    "chunks in HTTP/1.0": post(CHUNKED, b"0\r\n\r\n", b"1.0"),
    "no chunk size": post(CHUNKED, b"\r\nabc\r\n0\r\n\r\n"),
    "a bad chunk size": post(CHUNKED, b"zz\r\nabc\r\n0\r\n\r\n"),
    "a negative chunk size": post(CHUNKED, b"-3\r\nabc\r\n0\r\n\r\n"),
    "a chunk size with 0x": post(CHUNKED, b"0x3\r\nabc\r\n0\r\n\r\n"),
    "an endless chunk size": post(CHUNKED, b"fffffffffffffffffff\r\nabc"),
    "a chunk size ended by a line feed": post(CHUNKED, b"3\nabc\n0\n\n"),
    "a chunk longer than it says": post(CHUNKED, b"3\r\nabcd\r\n0\r\n\r\n"),
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two tokens": b"GET / HTTP/1.1\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
    "a space before the colon": post(b"Content-Length : 3", b"abc"),
    "a folded header": post(b"A: b\r\n Content-Length: 3", b"abc"),
    "line feeds alone": b"GET / HTTP/1.1\nHost: a\n\n",
    "one line feed alone": post(b"A: b\nContent-Length: 3", b"abc"),
    "carriage returns alone": b"GET / HTTP/1.1\rHost: a\r\r",
    "a null byte in a header": b"GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
    "a null byte in a name": b"GET / HTTP/1.1\r\nHo\0st: a\r\n\r\n",
    "a null byte in the path": b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space in the path": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "another coding": post(b"Transfer-Encoding: gzip, chunked", b"0\r\n\r\n"),
    "an unknown coding": post(b"Transfer-Encoding: xchunked", b"0\r\n\r\n"),
    "no coding": post(b"Transfer-Encoding: identity"),
    "HTTP/2.0": b"GET / HTTP/2.0\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "no version's number": b"GET / HTTP/1.2\r\n\r\n",
    "HTTP/2 without asking": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS handshake": bytes.fromhex("16030100c8010000c40303") + b"x" * 200,
    "noise": bytes(range(256)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_ambiguous_or_no_request_is_refused_and_ends_the_connection(http, name):
    transport = http()
    assert statuses(transport.ask(REFUSED[name] + SMUGGLED)) == [400]
    assert "/smuggled" not in [path for path, _ in transport.done]
    transport.nothing_left()


def test_what_is_malformed_does_not_spoil_the_requests_before_it(http):
    transport = http()
    answer = transport.ask(
        post(b"Content-Length: 3", b"abc") + post(CHUNKED, b"3\r\ndef\r\n0\r\n\r\n") + b"\x00" + LAST
    )
    assert statuses(answer) == [200, 200, 400]
    assert answer.index(b"POST /p abc") < answer.index(b"POST /p def") < answer.index(b"Malformed HTTP request")


@pytest.mark.parametrize("body", [b"GET /smuggled HTTP/1.1\r\n\r\n", b"x" * 100])
def test_the_body_of_a_refused_request_is_not_taken_for_a_request(http, body):
    transport = http(admit=lambda *head: HttpResponse(401))
    assert statuses(transport.ask(post(b"Content-Length: %d" % len(body), body) + SMUGGLED)) == [401]
    assert transport.done == [("/p", 401)]


def test_many_requests_at_once_are_answered_in_their_order(http):
    count = 500
    asked = b"".join(post(b"Content-Length: 3", b"%03d" % number) for number in range(count))
    answer = http().ask(asked + LAST)
    assert re.findall(rb"POST /p (\d+)", answer) == [b"%03d" % number for number in range(count)]
    assert answer.endswith(b"GET /last ")
    assert answer.count(b"Connection: close") == 1


def test_any_cut_into_packets_gives_the_same_answers(http):
    transport = http()
    data = post(b"Content-Length: 3", b"abc") + post(CHUNKED, b"3;x=y\r\ndef\r\n0\r\nA: b\r\n\r\n") + LAST
    whole = transport.ask(data)
    assert statuses(whole) == [200, 200, 200]
    for cut in range(1, len(data), 3):
        client = transport.connect(data[:cut])
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        time.sleep(0.001)
        client.sendall(data[cut:])
        assert b"".join(iter(lambda client=client: client.recv(9999), b"")) == whole


def test_after_a_request_to_close_nothing_more_is_read(http):
    transport = http()
    assert statuses(transport.ask(LAST + SMUGGLED)) == [200]
    assert transport.done == [("/last", 200)]


@pytest.mark.parametrize(
    ("connection", "kept"), [(b"", False), (b"Connection: keep-alive\r\n", True), (b"Connection: close\r\n", False)]
)
def test_http_1_0(http, connection, kept):
    answer = http().ask(b"GET / HTTP/1.0\r\n" + connection + b"\r\n" + LAST)
    assert statuses(answer) == [200, 200] if kept else [200]
    assert (b"Connection: keep-alive\r\n" in answer) == kept


def test_head_is_answered_without_a_body(http):
    answer = http().ask(b"HEAD /a HTTP/1.1\r\nHost: h\r\n\r\n" + LAST)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_expect_is_answered_before_the_body(http):
    transport = http(max_body_bytes=10)
    client = transport.connect(post(b"Content-Length: 3\r\nExpect: 100-continue"))
    assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"abc" + LAST)
    assert statuses(b"".join(iter(lambda: client.recv(1000), b""))) == [200, 200]
    # A body that will be refused is not asked for, and HTTP/1.0 does not know the question.
    assert statuses(transport.ask(post(b"Content-Length: 11\r\nExpect: 100-continue"))) == [413]
    assert statuses(transport.ask(post(b"Content-Length: 3\r\nExpect: 100-continue", b"abc", b"1.0"))) == [200]


def test_expect_of_a_stranger_gets_the_refusal_alone(http):
    transport = http(admit=lambda *head: HttpResponse(401))
    assert statuses(transport.ask(post(b"Content-Length: 3\r\nExpect: 100-continue", b"abc"))) == [401]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a%20b?c=d?e", "/a%20b"), (b"http://host:1/v1/models/m?x", "/v1/models/m"), (b"HTTPS://host", "/"),
        (b"http://host?x", "/"), (b"*", "*"), (b"//host/a", "//host/a"), (b"/http://host/a", "/http://host/a"),
    ],
)  # fmt: skip
def test_paths(http, target, path):
    transport = http()
    transport.ask(b"OPTIONS " + target + b" HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert transport.done == [(path, 200)]


@pytest.mark.parametrize(
    "data",
    [
        b"GET /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"POST /a HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc",
        b"CONNECT host:1 HTTP/1.1\r\n\r\n",
    ],
)
def test_an_upgrade_is_not_made_but_the_request_is_answered(http, data):
    transport = http()
    answer = transport.ask(data + SMUGGLED)
    assert statuses(answer) == [200]
    assert b"Connection: close" in answer
    assert len(transport.done) == 1


def test_a_fault_of_ours_is_logged_and_told_in_brief(http, caplog):
    async def fail(request):
        raise RuntimeError("a secret")

    answer = http(fail).ask(SMUGGLED + LAST)
    assert statuses(answer) == [500, 500]
    assert b"secret" not in answer
    assert "a secret" in caplog.text


# TLS.


@pytest.fixture(scope="module")
def pair():
    """A key and its own certificate for localhost, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, now = x509.Name([]), datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=True)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), certificate


@pytest.fixture
def secure(http, pair):
    return http(tls=ssl_context(TlsSettings(*pair)), header_seconds=0.3)


@pytest.fixture
def trust(pair):
    context = ssl.create_default_context(cadata=pair[1].decode())
    return lambda client: context.wrap_socket(client, server_hostname="localhost")


def test_requests_over_tls(secure, trust):
    client = trust(secure.connect())
    client.sendall(SMUGGLED + LAST)
    assert statuses(b"".join(iter(lambda: client.recv(1000), b""))) == [200, 200]


@pytest.mark.parametrize(
    "data", [SMUGGLED, b"", b"\x16\x03\x01\x02\x00", b"\x00" * 99], ids=["HTTP", "nothing", "a part", "noise"]
)
def test_what_is_no_tls_handshake_is_cut_off_in_time(secure, data):
    started = time.monotonic()
    answer = secure.ask(data)
    assert b"HTTP" not in answer
    assert time.monotonic() - started < 2.0
    assert secure.done == []


def test_a_client_that_does_not_say_farewell(secure, trust):
    client = trust(secure.connect())
    client.sendall(LAST)
    secure.nothing_left(2.0)


def test_slow_headers_over_tls(secure, trust):
    client = trust(secure.connect())
    client.sendall(b"GET /a HT")
    assert statuses(client.recv(1000)) == [408]
