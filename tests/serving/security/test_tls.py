"""TLS with real servers on loopback: who gets in, who does not, and what the start says about a bad file."""

import asyncio
import logging
import os
import socket
import ssl
import threading
from concurrent import futures

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from serving.errors import UsageError
from serving.security.tls import grpc_credentials, read_tls, ssl_context

SECONDS = 5


def settings_of(certificates, ssl_config, verify=False, server="server"):
    issued = getattr(certificates, server)
    fields = {"server_key": issued.key, "server_cert": issued.cert}
    if verify:
        fields |= {"custom_ca": certificates.ca.cert, "client_verify": True}
    return read_tls(ssl_config(**fields))


@pytest.fixture
def rest(certificates, ssl_config):
    """An asyncio server that echoes, on our context; `rest(client_verify) -> port`."""
    stops = []

    def start(client_verify=False, server="server"):
        context = ssl_context(settings_of(certificates, ssl_config, client_verify, server))
        ready, port = threading.Event(), []

        async def echo(reader, writer):
            writer.write(await reader.readline())
            writer.close()

        async def run():
            loop, stop = asyncio.get_running_loop(), asyncio.Event()
            loop.set_exception_handler(lambda loop, context: None)  # refused handshakes are what is tested
            async with await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context) as listening:
                port.append(listening.sockets[0].getsockname()[1])
                stops.append((lambda: loop.call_soon_threadsafe(stop.set), thread))
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        assert ready.wait(SECONDS)
        return port[0]

    yield start
    for stop, thread in stops:
        stop()
        thread.join(SECONDS)


@pytest.fixture
def rpc(certificates, ssl_config):
    """A gRPC server that echoes, on our credentials; `rpc(client_verify) -> address`."""
    servers = []

    def start(client_verify=False, server="server"):
        echo = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
        listening = grpc.server(futures.ThreadPoolExecutor(2))
        listening.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", {"Echo": echo}),))
        credentials = grpc_credentials(settings_of(certificates, ssl_config, client_verify, server))
        port = listening.add_secure_port("127.0.0.1:0", credentials)
        listening.start()
        servers.append(listening)
        return f"127.0.0.1:{port}"

    yield start
    for listening in servers:
        listening.stop(0).wait()


def client_context(certificates, ca="ca", shown=None, tmp_path=None):
    context = ssl.create_default_context(cadata=getattr(certificates, ca).cert)
    if shown:
        issued = getattr(certificates, shown)
        path = tmp_path / f"{shown}.pem"
        path.write_text(issued.key + issued.cert)
        context.load_cert_chain(path)
    return context


def ask(port, context, host="localhost"):
    """One line to the REST server and back: what it said and the TLS version."""
    with (
        socket.create_connection(("127.0.0.1", port), SECONDS) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        secure.sendall(b"hello\n")
        answer = secure.recv(100)
        if not answer:  # the end of a connection without TLS's farewell
            raise ConnectionError("closed without an answer")
        return answer, secure.version()


def call(address, certificates, ca="ca", shown=None):
    issued = getattr(certificates, shown) if shown else None
    credentials = grpc.ssl_channel_credentials(
        getattr(certificates, ca).cert.encode(), *((issued.key.encode(), issued.cert.encode()) if issued else ())
    )
    with grpc.secure_channel(address, credentials) as channel:
        return channel.unary_unary("/test/Echo")(b"hello", timeout=SECONDS)


def refused(address, certificates, **how):
    with pytest.raises(grpc.RpcError) as caught:
        call(address, certificates, **how)
    return caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_both_ports_answer_over_tls(rest, rpc, certificates):
    assert ask(rest(), client_context(certificates)) == (b"hello\n", "TLSv1.3")
    assert call(rpc(), certificates) == b"hello"


def test_a_client_of_another_authority_does_not_trust_us(rest, rpc, certificates):
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        ask(rest(), client_context(certificates, ca="other_ca"))
    assert refused(rpc(), certificates, ca="other_ca")


def test_a_certificate_for_another_host_is_not_trusted(rest, rpc, certificates):
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        ask(rest(server="wrong_host"), client_context(certificates))
    assert refused(rpc(server="wrong_host"), certificates)


def test_plain_text_to_the_tls_port_gets_no_answer(rest, rpc, certificates):
    port = rest()
    with socket.create_connection(("127.0.0.1", port), SECONDS) as plain:
        plain.sendall(b"GET /v1/models/m HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b"".join(iter(lambda: plain.recv(100), b""))
    assert b"HTTP" not in answer
    assert len(answer) <= 7  # a TLS alert at most
    assert ask(port, client_context(certificates))[0] == b"hello\n"
    with grpc.insecure_channel(rpc()) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/test/Echo")(b"hello", timeout=SECONDS)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_mutual_tls_takes_clients_of_the_authority_only(rest, rpc, certificates, tmp_path):
    port, address = rest(client_verify=True), rpc(client_verify=True)
    assert ask(port, client_context(certificates, shown="client", tmp_path=tmp_path))[0] == b"hello\n"
    assert call(address, certificates, shown="client") == b"hello"
    for shown in (None, "stranger", "expired"):
        # With TLS 1.3 the client learns of its refusal when it reads.
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(port, client_context(certificates, shown=shown, tmp_path=tmp_path))
        assert refused(address, certificates, shown=shown)


def test_old_protocols_and_weak_ciphers_are_refused(rest, certificates):
    port = rest()
    old = client_context(certificates)
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    weak = client_context(certificates)
    weak.maximum_version = ssl.TLSVersion.TLSv1_2
    weak.set_ciphers("ECDHE-ECDSA-AES128-SHA256:AES128-GCM-SHA256")
    for context in (old, weak):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(port, context)
    good = client_context(certificates)
    good.maximum_version = ssl.TLSVersion.TLSv1_2
    assert ask(port, good) == (b"hello\n", "TLSv1.2")


def test_rsa_and_a_chain_are_taken(certificates, ssl_config):
    issued = type(certificates.server)("rsa", certificates.ca, private=rsa.generate_private_key(65537, 2048))
    settings = read_tls(ssl_config(server_key=issued.key, server_cert=issued.cert + certificates.ca.cert))
    assert settings.client_verify is False
    assert "PRIVATE" not in repr(settings)


def test_text_around_the_pem_does_not_matter(certificates, ssl_config):
    issued, note = certificates.server, "# 我们的 authority\nsubject=/CN=x\n"
    plain = issued.private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    settings = read_tls(
        ssl_config(
            server_key=parameters + plain,  # as `openssl ecparam -genkey` writes it
            server_cert=note + issued.cert,
            custom_ca=note + certificates.ca.cert + note + certificates.other_ca.cert,
            client_verify=True,
        )
    )
    assert settings.server_key.decode() == issued.key
    assert settings.custom_ca.decode() == certificates.ca.cert + certificates.other_ca.cert
    assert len(ssl_context(settings).get_ca_certs()) == 2


def test_a_weak_key_is_refused(certificates, ssl_config):
    issued = type(certificates.server)("weak", certificates.ca, private=rsa.generate_private_key(65537, 1024))
    told = mistake(ssl_config(server_key=issued.key, server_cert=issued.cert))
    assert told == "--ssl_config_file: OpenSSL refuses the key or a certificate: EE_KEY_TOO_SMALL"


def test_nothing_of_the_key_stays_on_disk(certificates, ssl_config, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    settings_of(certificates, ssl_config)
    assert os.listdir(scratch) == []


def mistake(path):
    with pytest.raises(UsageError) as caught:
        read_tls(path)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("--ssl_config_file: ")
    return text


def test_a_file_that_is_not_there(tmp_path):
    assert "cannot read" in mistake(tmp_path / "none")


def test_what_is_wrong_with_a_file_is_said_at_once(certificates, ssl_config):
    good, key = certificates.server, certificates.server.key
    big = type(good)("big", certificates.ca, private=ec.generate_private_key(ec.SECP521R1()))
    other = ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    cases = [
        ({"server_cert": good.cert}, "server_key is missing"),
        ({"server_key": key}, "server_cert is missing"),
        ({"server_key": good.encrypted_key(), "server_cert": good.cert}, "server_key is encrypted; store it without"),
        ({"server_key": "/etc/key.pem", "server_cert": good.cert}, "no private key in PEM: expected the file's text"),
        ({"server_key": key[:100], "server_cert": good.cert}, "server_key is no private key in PEM: the text is dam"),
        ({"server_key": good.cert, "server_cert": good.cert}, "no private key in PEM: the text is damaged, or of ano"),
        ({"server_key": other.decode(), "server_cert": good.cert}, "server_key must be for RSA, P-256 or P-384"),
        ({"server_key": big.key, "server_cert": big.cert}, "server_key must be for RSA, P-256 or P-384"),
        ({"server_key": key, "server_cert": "/etc/cert.pem"}, "server_cert is no certificate in PEM: expected the"),
        ({"server_key": key, "server_cert": certificates.client.cert}, "do not belong together"),
        ({"server_key": key, "server_cert": certificates.ca.cert + good.cert}, "the server's own must be the first"),
        ({"server_key": key, "server_cert": good.cert, "client_verify": True}, "client_verify needs custom_ca"),
        ({"server_key": key, "server_cert": good.cert, "custom_ca": "x"}, "custom_ca is no certificate in PEM"),
        (
            {"server_key": key, "server_cert": good.cert, "custom_ca": certificates.expired_ca.cert},
            "the certificate CN=an old authority in custom_ca expired on ",
        ),
        (
            {"server_key": certificates.expired.key, "server_cert": certificates.expired.cert},
            "the certificate CN=expired in server_cert expired on ",
        ),
        (
            {"server_key": certificates.future.key, "server_cert": certificates.future.cert},
            "the certificate CN=future in server_cert is not valid before ",
        ),
    ]
    for fields, text in cases:
        assert text in mistake(ssl_config(**fields))


@pytest.mark.parametrize(
    "text",
    ['server_key: "{key}', "server_key: {key}", 'server_key: "ok" server_cert: "ok"\n{key}'],
    ids=["quote", "none", "lines"],
)
def test_a_file_that_cannot_be_read_does_not_show_the_key(certificates, tmp_path, text):
    path = tmp_path / "ssl.config"
    path.write_text(text.format(key=certificates.server.key.replace("\n", "\\n")))
    told = mistake(path)
    assert "each PEM text in quotes on one line" in told
    assert not any(line in told for line in certificates.server.key.splitlines()[1:-1])


def test_an_unknown_field_is_named(tmp_path):
    (tmp_path / "ssl.config").write_text('server_keys: "x"')
    assert 'has no field named "server_keys"' in mistake(tmp_path / "ssl.config")


def test_warnings(certificates, ssl_config, caplog):
    caplog.set_level(logging.WARNING)
    issued = certificates.soon
    path = ssl_config(server_key=issued.key, server_cert=issued.cert, custom_ca=certificates.ca.cert)
    path.chmod(0o644)
    read_tls(path)
    told = "\n".join(caplog.messages)
    assert "the certificate CN=soon in server_cert expires on " in told
    assert "custom_ca has no effect without client_verify" in told
    assert f"{path} holds a private key and other users may read it: chmod 600" in told
