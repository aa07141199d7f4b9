"""What the blocking client and the asyncio client have in common: the connection's settings and its protection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from serving.client.calls import Attempt, Calls
from serving.client.info import ClientError
from serving.errors import Code

DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_RETRIES = 3

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # gRPC's own limit of 4 MB for answers is the usual surprise of TensorFlow Serving's users.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # gRPC waits longer and longer before it connects again, up to two minutes: a server that has restarted is to be
    # found within a second. (The third is, in spite of its name, how long one attempt to connect may take.)
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 5000),
    # Retries are ours, one policy that the caller sees; the name's owner must not change it through DNS. gRPC's
    # "transparent" retries stay on: they send a request again only if no server has seen it.
    ("grpc.service_config_disable_resolution", 1),
)


class BaseClient:
    """A connection to one server; see `Client` and `AsyncClient`.

    Attributes:
        target: The server.
        headers: Sent with every request.
    """

    def __init__(
        self,
        target: str,
        *,
        tls: bool = False,
        ca: str | Path | bytes | None = None,
        certificate: str | Path | bytes | None = None,
        key: str | Path | bytes | None = None,
        token: str | None = None,
        insecure: bool = False,
        retries: int = DEFAULT_RETRIES,
        retry_exhausted: bool = False,
    ) -> None:
        """Connects when first used.

        Args:
            target: `host:port` or `unix:/path/of/socket`.
            tls: Encrypt; `ca`, `certificate` and `key` imply it.
            ca: PEM (a file's path, or its bytes) of whoever signed the server's certificate; None = those that gRPC
                trusts, the public ones.
            certificate: PEM of the client's own certificate, for servers that ask for one.
            key: PEM of the private key that belongs to it.
            token: Sent as `authorization: Bearer …`. Refused over plain text unless the server is on this machine.
            insecure: Send the token over plain text all the same.
            retries: How often a request is sent again when the server is UNAVAILABLE; after random pauses of up to 0.1,
                0.2, 0.4, … 2 s, and only while the call's timeout allows.
            retry_exhausted: Also when it answers RESOURCE_EXHAUSTED (a limit of rate or of requests at once).

        Raises:
            ClientError: A file cannot be read, a certificate lacks its key, a token would be readable on its way.
        """
        self.target = target
        self._tls = tls or any(item is not None for item in (ca, certificate, key))
        self._pem = (_pem(ca, "ca"), _pem(key, "key"), _pem(certificate, "certificate"))  # as gRPC orders them
        if (certificate is None) != (key is None):
            raise ClientError("a client's certificate and its key are given together: certificate=…, key=…")
        if retries < 0:
            raise ClientError(f"retries must be 0 or more, but {retries} was given")
        self.headers: tuple[tuple[str, str], ...] = ()
        if token is not None:
            self.headers = (("authorization", f"Bearer {check_token(token)}"),)
        if token is not None and not (self._tls or insecure or is_loopback(target)):
            raise ClientError(
                f"the token would go to {target} in plain text, where others can read it: "
                "use TLS (ca, or tls for a public authority), or insecure if the network is your own"
            )
        retried = {Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED} if retry_exhausted else {Code.UNAVAILABLE}
        self._calls = Calls(target, self.headers, retries, frozenset(retried))
        self._channel: Any = None
        self._methods: dict[str, Any] = {}
        self._connect()

    def _connect(self) -> None:
        """Opens the channel, where that can be done at once."""

    def _open(self, grpc: Any) -> Any:
        """A channel of `grpc` or `grpc.aio`."""
        # gRPC would ask a proxy named in the environment even for this machine, which no proxy can reach.
        options = (*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)) if is_loopback(self.target) else CHANNEL_OPTIONS
        if not self._tls:
            return grpc.insecure_channel(self.target, options=options)
        from grpc import ssl_channel_credentials

        return grpc.secure_channel(self.target, ssl_channel_credentials(*self._pem), options=options)

    def _call(self, attempt: Attempt) -> Any:
        """GRPC's callable for an attempt, kept because making it takes as long as some calls."""
        if attempt.path not in self._methods:
            self._methods[attempt.path] = self._channel.unary_unary(
                attempt.path, type(attempt.request).SerializeToString, attempt.response_class.FromString
            )
        return self._methods[attempt.path]


def is_loopback(target: str) -> bool:
    """Whether what is sent to an address stays on this machine."""
    if target.startswith("unix:"):
        return True
    host = target.rpartition(":")[0].strip("[]")
    parts = host.split(".")
    is_ipv4 = len(parts) == 4 and all(part.isdigit() for part in parts)  # 127.0.0.1.example.com is no loopback
    return host in ("localhost", "::1") or (is_ipv4 and parts[0] == "127")


def check_token(token: str, source: str = "token=…") -> str:
    """A token that can be sent as a header.

    Raises:
        ClientError: It is empty or has white space or characters beyond ASCII; names the source, not the token.
    """
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ClientError(f"{source} holds no token: one is printable ASCII without spaces")
    return token


def _pem(source: str | Path | bytes | None, name: str) -> bytes | None:
    if source is None:
        return None
    data, where = (source, f"{name}=…") if isinstance(source, bytes) else (b"", str(source))
    if not isinstance(source, bytes):
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise ClientError(f"cannot read {source}: {error.strerror}") from None
    if b"-----BEGIN " not in data:
        raise ClientError(f"{where} is no PEM file: it has no line -----BEGIN …-----")
    return data
