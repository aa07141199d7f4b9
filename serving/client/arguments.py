"""Command-line options for reaching a server and for examples to send it, shared by the commands that do."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from serving.client.base import check_token
from serving.client.info import ClientError
from serving.errors import UsageError

if TYPE_CHECKING:
    import ssl

    from serving.client.input import Example

TOKEN_VARIABLE = "TFBIGMODEL_TOKEN"


class Parser(argparse.ArgumentParser):
    """argparse, with its errors as ours: one line."""

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage and leaving."""
        raise UsageError(f"{message} (see --help)")


def seconds(text: str) -> float:
    """An option's value as a number of seconds above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, but {text!r} was given")
    return value


def add_connection_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `connection_options` reads."""
    group = parser.add_argument_group(
        "connection",
        f"A token is read from --token_file or from the environment variable {TOKEN_VARIABLE}, and there is no option "
        "to write it into: every user of the machine can see the command lines of all programs.",
    )
    group.add_argument("--target", default="127.0.0.1:8500", help="server, host:port or unix:/path (%(default)s)")
    group.add_argument("--tls", action="store_true", help="encrypt; the next three options imply it")
    group.add_argument("--ca", metavar="FILE", help="PEM of who signed the server's certificate (public authorities)")
    group.add_argument("--certificate", metavar="FILE", help="PEM of our own certificate, where the server wants one")
    group.add_argument("--key", metavar="FILE", help="PEM of its private key")
    group.add_argument("--token_file", metavar="FILE", help="file that holds the token and nothing else")
    group.add_argument("--insecure", action="store_true", help="send the token in plain text over a network")


def connection_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options as arguments of `Client`.

    Raises:
        ClientError: The token's file cannot be read, or holds none.
    """
    return {
        "tls": options.tls,
        "ca": options.ca,
        "certificate": options.certificate,
        "key": options.key,
        "token": _token(options.token_file),
        "insecure": options.insecure,
    }


def tls_context(options: argparse.Namespace, protocol: str) -> ssl.SSLContext | None:
    """The same for connections that gRPC does not make; None = plain text.

    Args:
        options: Checked by a `Client` that was made with them: the files can be read.
        protocol: For ALPN, e.g. `h2`.

    Raises:
        ClientError: A file is no certificate, or the certificate and the key are no pair.
    """
    if not (options.tls or options.ca or options.certificate):
        return None
    import ssl

    try:
        context = ssl.create_default_context(cafile=options.ca)
        if options.certificate:
            context.load_cert_chain(options.certificate, options.key)
    except ssl.SSLError as error:
        raise ClientError(f"the certificates cannot be used: {error}") from None
    context.set_alpn_protocols([protocol])
    return context


def add_example_options(group: Any) -> None:
    """Adds the options that `examples` reads; they exclude each other where the group does."""
    group.add_argument("--image", nargs="+", metavar="FILE", help="image files, sent as they are to the input 'image'")
    group.add_argument("--text", nargs="+", help="texts, sent to the input 'text'")
    group.add_argument(
        "--input", nargs="+", metavar="JSON", help='one example each, e.g. \'{"age": 31, "city": "Paris"}\''
    )
    group.add_argument("--input_file", metavar="FILE", help="rows.csv with input names as header, or rows.jsonl")


def examples(options: argparse.Namespace) -> list[Example]:
    """What the options name; empty where none of them was given.

    Raises:
        ClientError: A file or an argument cannot be read.
    """
    from serving.client.input import Example, read_file, read_images, read_json_arguments

    if options.image:
        return read_images(options.image)
    if options.input:
        return read_json_arguments(options.input)
    if options.input_file:
        return read_file(options.input_file)
    return [Example(f"--text {number}", {"text": text}) for number, text in enumerate(options.text or (), 1)]


def _token(file: str | None) -> str | None:
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        return check_token(token, TOKEN_VARIABLE) if token else None
    try:
        return check_token(Path(file).read_text("utf-8").strip(), file)
    except OSError as error:
        raise ClientError(f"cannot read --token_file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ClientError(f"{file} holds no token: it is not text") from None
