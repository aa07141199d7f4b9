"""Both clients under one face, small gRPC servers that behave as a test says, and certificates."""

import asyncio
import datetime
import ipaddress
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest


class Blocking:
    """An AsyncClient whose methods are called as a Client's."""

    def __init__(self, runner, *arguments, **options):
        from serving.client import AsyncClient

        self._runner, self._client = runner, AsyncClient(*arguments, **options)

    def __getattr__(self, name):
        async def run(*arguments, **options):
            return await getattr(self._client, name)(*arguments, **options)

        return lambda *arguments, **options: self._runner.run(run(*arguments, **options))


@pytest.fixture(params=["blocking", "asyncio"])
def connect(request):
    """`connect(target, **options)` gives a client; every test that uses it runs with both kinds."""
    from serving.client import Client

    clients = []
    with asyncio.Runner() as runner:

        def make(*arguments, **options):
            is_blocking = request.param == "blocking"
            clients.append(Client(*arguments, **options) if is_blocking else Blocking(runner, *arguments, **options))
            return clients[-1]

        yield make
        for client in clients:
            client.close()


class SmallServer:
    """A gRPC server that answers every call with what `behave(number, path, request, context)` returns.

    Attributes:
        calls: `(path, request, metadata, seconds left)` of every call so far.
    """

    def __init__(self, behave, port=0, credentials=None):
        import grpc

        self.calls, self._behave, self._lock = [], behave, threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        if credentials is None:
            self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            self.port = self._server.add_secure_port(f"127.0.0.1:{port}", credentials)
        self.target = f"127.0.0.1:{self.port}"
        self._server.start()

    def service(self, details):
        import grpc

        def answer(request, context):
            with self._lock:
                number = len(self.calls)
                metadata = dict(details.invocation_metadata)
                self.calls.append((details.method, request, metadata, context.time_remaining()))
            return self._behave(number, details.method, request, context)

        return grpc.unary_unary_rpc_method_handler(answer)

    def stop(self):
        self._server.stop(0).wait()


@pytest.fixture
def small_server():
    """Starts a SmallServer; `behave` may be left out for one that gives empty answers."""
    servers = []

    def start(behave=lambda number, path, request, context: b"", **options):
        servers.append(SmallServer(behave, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """Files `ca`, `server`, `server_key`, `client`, `client_key`, `other_ca`, in PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder, now = tmp_path_factory.mktemp("certificates"), datetime.datetime.now(datetime.UTC)
    paths = SimpleNamespace()

    def issue(name, issuer=None):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer_name, issuer_key = issuer or (subject, key)
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(issuer_name).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )  # fmt: skip
        pem = serialization.Encoding.PEM
        for suffix, data in (
            ("", certificate.public_bytes(pem)),
            ("_key", key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())),
        ):
            path = folder / f"{name}{suffix}.pem"
            path.write_bytes(data)
            setattr(paths, name + suffix, path)
        return subject, key

    authority = issue("ca")
    issue("server", authority)
    issue("client", authority)
    issue("other_ca")
    return paths


@pytest.fixture(scope="session")
def server_credentials(certificates):
    """What a gRPC server needs for TLS; `server_credentials(mutual=True)` wants a client's certificate."""
    import grpc

    def make(mutual=False):
        pair = (certificates.server_key.read_bytes(), certificates.server.read_bytes())
        return grpc.ssl_server_credentials([pair], certificates.ca.read_bytes() if mutual else None, mutual)

    return make
