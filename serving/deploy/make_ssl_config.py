"""Writes --ssl_config_file from PEM files: TensorFlow Serving wants key and certificates inline, in a text message.

    python -m serving.deploy.make_ssl_config --key server.key --certificate server.crt --output ssl_config

With `--client_ca ca.crt` callers must show a certificate of that authority (mutual TLS). The file holds the key, so
only its owner may read it. Needs nothing beyond Python, and checks that key and certificate belong together.
"""

from __future__ import annotations

import argparse
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.errors import UsageError
from serving.security.keys import write_file


def ssl_config_text(key: Path, certificate: Path, client_ca: Path | None = None) -> str:
    """The text message SSLConfig with the files' contents.

    Args:
        key: The server's private key, PEM, without a passphrase.
        certificate: Its certificate, followed by those of the authorities between it and the root, PEM.
        client_ca: The authority of the callers' certificates, PEM; None = callers need none.

    Returns:
        What --ssl_config_file takes, here and in TensorFlow Serving.

    Raises:
        UsageError: A file that cannot be read or is no PEM, an encrypted key, a key of another certificate.
    """
    texts = {path: _read(path) for path in (key, certificate, client_ca) if path is not None}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password="")  # otherwise it would ask for a passphrase here
    except (ssl.SSLError, ValueError) as error:
        reason = "they do not belong together" if "MISMATCH" in str(error) else str(error)
        raise UsageError(
            f"{key} and {certificate} are no usable pair: {reason}; "
            "expected a PEM key without a passphrase and its certificate"
        ) from None
    fields = {"server_key": texts[key], "server_cert": texts[certificate]}
    if client_ca is not None:
        try:
            context.load_verify_locations(cadata=texts[client_ca])
        except (ssl.SSLError, ValueError) as error:
            raise UsageError(f"--client_ca: {client_ca} holds no PEM certificate: {error}") from None
        fields["custom_ca"] = texts[client_ca]
    lines = [f'{name}: "{_escape(text)}"' for name, text in fields.items()]
    return "\n".join([*lines, f"client_verify: {'true' if client_ca is not None else 'false'}", ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns 0, or 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m serving.deploy.make_ssl_config", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--key", type=Path, required=True, help="the server's private key (PEM)")
    parser.add_argument("--certificate", type=Path, required=True, help="the server's certificate chain (PEM)")
    parser.add_argument("--client_ca", type=Path, help="authority of the callers' certificates: mutual TLS")
    parser.add_argument("--output", type=Path, required=True, help="the file to write")
    options = parser.parse_args(arguments)
    try:
        text = ssl_config_text(options.key, options.certificate, options.client_ca)
        write_file(options.output, text.encode(), 0o600)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path} as a PEM file: {error}") from None


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "").replace("\n", "\\n")


if __name__ == "__main__":
    sys.exit(main())
