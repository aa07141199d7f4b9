"""TLS and mutual TLS for both ports, from TensorFlow Serving's `--ssl_config_file`.

The file is a text `SSLConfig` with the PEM texts inline. gRPC and Python's ssl say little about a mistake in them, and
only to whoever connects, so everything is checked at the start.
"""

from __future__ import annotations

import logging
import re
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.errors import UsageError
from serving.protos import read_text_message
from serving.security.keys import require_cryptography

if TYPE_CHECKING:
    import grpc
    from cryptography import x509

logger = logging.getLogger(__name__)

_FLAG = "ssl_config_file"
# Forward secrecy and authenticated encryption only; TLS 1.3, which has nothing else, chooses its own.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_CURVES = ("secp256r1", "secp384r1")
_WARN_BEFORE_EXPIRY = timedelta(days=14)


@dataclass(frozen=True)
class TlsSettings:
    """Key and certificates of the server, as PEM.

    Attributes:
        server_key: The private key, not encrypted.
        server_cert: The server's certificate, then those between it and the authority, if any.
        custom_ca: Certificates of the authorities that clients' certificates must come from; empty = none.
        client_verify: Whether a client must show a certificate of such an authority (mutual TLS).
    """

    server_key: bytes
    server_cert: bytes
    custom_ca: bytes = b""
    client_verify: bool = False

    def __repr__(self) -> str:
        """Without the key, which must not get into logs."""
        return f"TlsSettings(client_verify={self.client_verify})"


def read_tls(path: Path) -> TlsSettings:
    r"""Reads and checks the file of `--ssl_config_file`.

    Args:
        path: A text `SSLConfig`, in which every PEM text is one string with `\n` for its line ends.

    Returns:
        Settings that both ports can use.

    Raises:
        UsageError: What is missing, wrong, expired, or does not belong together.

    Example:
        >>> ssl_context(read_tls(Path("ssl.config")))
        <ssl.SSLContext object at …>

    Reference:
        tensorflow_serving/config/ssl_config.proto
    """
    message = _read_message(path)
    key = _private_key(path, message.server_key.encode())
    certificates = _certificates(path, "server_cert", message.server_cert.encode())
    _check_pair(path, key, certificates)
    if message.client_verify and not message.custom_ca.strip():
        raise _mistake(path, "client_verify needs custom_ca, the authority that the clients' certificates come from")
    authorities = _certificates(path, "custom_ca", message.custom_ca.encode()) if message.custom_ca.strip() else []
    for field, checked in (("server_cert", certificates), ("custom_ca", authorities)):
        for certificate in checked:
            _check_dates(path, field, certificate)
    if authorities and not message.client_verify:
        logger.warning(
            "--%s: custom_ca has no effect without client_verify: no client is asked for a certificate", _FLAG
        )
    if path.stat().st_mode & 0o007:
        logger.warning("--%s: %s holds a private key and other users may read it: chmod 600 %s", _FLAG, path, path)
    # Written anew, so that gRPC and OpenSSL, which differ in what text they take around it, get the same.
    settings = TlsSettings(_key_text(key), _text(certificates), _text(authorities), message.client_verify)
    ssl_context(settings)  # OpenSSL refuses more, weak keys for instance
    return settings


def grpc_credentials(settings: TlsSettings) -> grpc.ServerCredentials:
    """The gRPC port's credentials, as TensorFlow Serving makes them of the same file."""
    import grpc

    return grpc.ssl_server_credentials(
        [(settings.server_key, settings.server_cert)],
        root_certificates=settings.custom_ca or None,
        require_client_auth=settings.client_verify,
    )


def ssl_context(settings: TlsSettings) -> ssl.SSLContext:
    """The REST port's context: TLS 1.2 at least.

    Raises:
        UsageError: OpenSSL does not take the key or a certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Python's ssl reads keys from files only. This one is the user's alone (0600) and gone at the block's end.
        with tempfile.NamedTemporaryFile(prefix="tls-") as file:
            file.write(settings.server_key + b"\n" + settings.server_cert)
            file.flush()
            # Without a password OpenSSL would ask for an encrypted key's on the terminal.
            context.load_cert_chain(file.name, password="")
        if settings.client_verify:
            context.load_verify_locations(cadata=settings.custom_ca.decode())
            context.verify_mode = ssl.CERT_REQUIRED
    except ssl.SSLError as error:
        raise UsageError(f"--{_FLAG}: OpenSSL refuses the key or a certificate: {error.reason or error}") from None
    except OSError as error:
        raise UsageError(f"--{_FLAG}: no temporary file can be written: {error}; set TMPDIR to a folder") from None
    return context


def _read_message(path: Path) -> Any:
    try:
        return read_text_message(path, "SSLConfig", _FLAG)
    except UsageError as error:
        start, mark, reason = str(error).partition("SSLConfig: ")
        place = re.match(r"(\d+):(\d+)", reason)
        if not place or "no field named" in reason:
            raise
        # The parser quotes the line it could not read, which may be the private key.
        raise UsageError(
            f"{start}{mark}line {place[1]}, column {place[2]}: expected fields such as "
            r'server_key: "-----BEGIN PRIVATE KEY-----\nMII…", each PEM text in quotes on one line, \n for line ends'
        ) from None


def _private_key(path: Path, pem: bytes) -> Any:
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if not pem.strip():
        raise _mistake(path, "server_key is missing: the server's private key, as PEM text")
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise _mistake(
            path, "server_key is encrypted; store it without a passphrase (openssl pkey -in key.pem -out plain.pem)"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise _mistake(path, f"server_key is no private key in PEM: {_expected(pem, 'PRIVATE KEY')}") from None
    curve = isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name
    if not isinstance(key, rsa.RSAPrivateKey) and curve not in _CURVES:
        raise _mistake(path, "server_key must be for RSA, P-256 or P-384: gRPC's clients take no other")
    return key


def _certificates(path: Path, field: str, pem: bytes) -> list[x509.Certificate]:
    require_cryptography()
    from cryptography import x509

    if not pem.strip():
        raise _mistake(path, f"{field} is missing: certificates, as PEM text")
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise _mistake(path, f"{field} is no certificate in PEM: {_expected(pem, 'CERTIFICATE')}") from None


def _key_text(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _text(certificates: Sequence[x509.Certificate]) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _check_pair(path: Path, key: Any, certificates: Sequence[x509.Certificate]) -> None:
    public = key.public_key()
    if certificates[0].public_key() == public:
        return
    if any(certificate.public_key() == public for certificate in certificates[1:]):
        raise _mistake(path, "server_cert begins with another certificate; the server's own must be the first")
    raise _mistake(path, "server_key and server_cert do not belong together: the certificate is for another key")


def _check_dates(path: Path, field: str, certificate: x509.Certificate) -> None:
    now = datetime.now(UTC)
    subject = certificate.subject.rfc4514_string() or "without a name"
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if end < now:
        raise _mistake(path, f"the certificate {subject} in {field} expired on {end:%Y-%m-%d %H:%M} UTC; renew it")
    if start > now:
        raise _mistake(
            path,
            f"the certificate {subject} in {field} is not valid before {start:%Y-%m-%d %H:%M} UTC; "
            "is this machine's clock right?",
        )
    if end < now + _WARN_BEFORE_EXPIRY:
        logger.warning(
            "--%s: the certificate %s in %s expires on %s UTC", _FLAG, subject, field, f"{end:%Y-%m-%d %H:%M}"
        )


def _expected(pem: bytes, kind: str) -> str:
    # What it is instead is not quoted: it may be a secret.
    if b"-----BEGIN" in pem:
        return "the text is damaged, or of another kind"
    return f"expected the file's text, -----BEGIN {kind}-----\\n…, not its path"


def _mistake(path: Path, text: str) -> UsageError:
    return UsageError(f"--{_FLAG}: {path}: {text}")
