"""`python -m serving.security.signing`: makes signing keys, signs versions, checks them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.errors import ServingError, UsageError
from serving.manifest import MANIFEST, verify_manifest
from serving.security.command import make_parser, run_command
from serving.security.keys import require_cryptography, write_file
from serving.security.signing import SIGNATURE, key_id, make_signature, read_private_key, read_public_keys

_EPILOG = """examples:
  python -m serving.security.signing create_key --private key.pem --public key.pub.pem
  python -m serving.security.signing sign --key key.pem exported/dense/1
  python -m serving.security.signing verify --trusted_keys key.pub.pem exported/dense/1
"""


def create_key(private: Path, public: Path) -> str:
    """Makes a key pair in two files, the private one readable by its owner only.

    Args:
        private: Where the private key goes; it must not exist.
        public: Where the public key goes; it must not exist.

    Returns:
        The key's id.

    Raises:
        UsageError: A file exists or cannot be written.
    """
    require_cryptography()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    if public.exists():  # told before half of the pair is written
        raise UsageError(f"{public} exists already and is not overwritten; choose another name")
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_file(private, pem, 0o600, replace=False)
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_file(public, pem, 0o644, replace=False)
    return key_id(key.public_key().public_bytes_raw())


def sign(version_directory: Path, key: Path) -> str:
    """Signs a version whose files match its manifest; a server may watch the folder meanwhile.

    Args:
        version_directory: A version of a model, e.g. `exported/dense/1`.
        key: PEM file of the private key.

    Returns:
        The key's id.

    Raises:
        UsageError: There is no manifest, it does not match, or a file cannot be read or written.
    """
    private = read_private_key(key)
    path = version_directory / MANIFEST
    try:
        manifest = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; python -m tfbigmodel.export writes it") from None
    # An earlier signature may be of an earlier manifest; it is replaced, not checked.
    _check(version_directory, ())
    write_file(version_directory / SIGNATURE, make_signature(manifest, private), 0o644)
    return key_id(private.public_key().public_bytes_raw())


def verify(version_directory: Path, trusted_keys: Path) -> None:
    """Checks a version as a server does that requires signatures.

    Raises:
        UsageError: What is wrong with it, or with the keys.
    """
    _check(version_directory, read_public_keys(trusted_keys))


def _check(version_directory: Path, trusted_keys: Sequence[bytes]) -> None:
    try:
        verify_manifest(version_directory, trusted_keys, require_signature=bool(trusted_keys))
    except ServingError as error:
        raise UsageError(f"{version_directory}: {error.message}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; see `python -m serving.security.signing --help`."""
    return run_command(_parser(), _act, arguments)


def _act(options: argparse.Namespace) -> None:
    if options.command == "create_key":
        name = create_key(Path(options.private), Path(options.public))
        sys.stdout.write(f"made the key {name}: {options.private} signs (keep it secret), {options.public} verifies\n")
    elif options.command == "sign":
        name = sign(Path(options.version_directory), Path(options.key))
        sys.stdout.write(f"signed {options.version_directory} with the key {name}\n")
    else:
        verify(Path(options.version_directory), Path(options.trusted_keys))
        sys.stdout.write(f"{options.version_directory} is signed by a trusted key and every file matches\n")


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("serving.security.signing", "Signs exported versions (Ed25519) and checks them.", _EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="create_key|sign|verify")
    new = commands.add_parser("create_key", help="make a key pair", allow_abbrev=False)
    new.add_argument("--private", required=True, help="file for the private key, which signs")
    new.add_argument("--public", required=True, help="file for the public key, which servers trust")
    signer = commands.add_parser("sign", help="sign a version", allow_abbrev=False)
    signer.add_argument("--key", required=True, help="PEM file of the private key")
    checker = commands.add_parser("verify", help="check a version's signature and files", allow_abbrev=False)
    checker.add_argument("--trusted_keys", required=True, help="PEM file of public keys")
    for command in (signer, checker):
        command.add_argument("version_directory", help="a version, e.g. exported/dense/1")
    return parser
