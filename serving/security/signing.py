"""Signatures of exports: Ed25519 over a version's manifest, which has the SHA-256 of every other file.

A signature says that who has the private key made these files. It does not say under which name or number they are to
be served: an old signed version that is put back as a new one is still signed.

The command that makes keys and signatures is `python -m serving.security.signing`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.errors import Code, ServingError, UsageError
from serving.security.keys import require_cryptography

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE = "assets.extra/manifest.sig"
# What is signed begins with this, so that a signature of a manifest can never pass for one of anything else.
DOMAIN = b"tfbigmodel manifest v1\n"

_KEYS = {"algorithm", "key_id", "signature"}
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


def key_id(public_key: bytes) -> str:
    """A key's short name: 16 hexadecimal digits of the SHA-256 of its 32 bytes. It finds a key and proves nothing."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def make_signature(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """Signs a manifest.

    Args:
        manifest: The bytes of manifest.json.
        key: From `read_private_key`.

    Returns:
        The content of `assets.extra/manifest.sig`.
    """
    content = {
        "algorithm": "ed25519",
        "key_id": key_id(key.public_key().public_bytes_raw()),
        "signature": base64.b64encode(key.sign(DOMAIN + manifest)).decode("ascii"),
    }
    return json.dumps(content, indent=2).encode() + b"\n"


def check_signature(manifest: bytes, signature: bytes, trusted_keys: Sequence[bytes]) -> str:
    """Checks that a trusted key signed a manifest.

    Args:
        manifest: The bytes of manifest.json, those that are used afterwards.
        signature: The content of `assets.extra/manifest.sig`.
        trusted_keys: Public keys, 32 bytes each.

    Returns:
        The key's id.

    Raises:
        ServingError: DATA_LOSS if the signature is broken or for another manifest, PERMISSION_DENIED if it is by a key
            that is not trusted.
    """
    require_cryptography()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    name, value = _parse(signature)
    trusted = {key_id(key): key for key in trusted_keys}
    if name not in trusted:
        raise ServingError(
            Code.PERMISSION_DENIED,
            f"Manifest check failed: it is signed with the key {name}, and trusted are {', '.join(trusted) or 'none'}; "
            "sign the version with a trusted key or add its public key to --trusted_keys_file",
        )
    try:
        Ed25519PublicKey.from_public_bytes(trusted[name]).verify(value, DOMAIN + manifest)
    except InvalidSignature:
        raise _broken(
            f"the signature by the key {name} is not of this manifest; export or sign the version again"
        ) from None
    return name


def read_trusted_keys(path: str, require_signature: bool = False) -> tuple[bytes, ...]:
    """The keys of `--trusted_keys_file`.

    Args:
        path: PEM public keys, one after the other; empty = none.
        require_signature: `--require_signed_manifest`, which makes no sense without keys.

    Returns:
        The public keys, 32 bytes each.

    Raises:
        UsageError: The file cannot be read or holds something else, or keys are required and missing.
    """
    if not path:
        if require_signature:
            raise UsageError("--require_signed_manifest needs --trusted_keys_file, the public keys that are trusted")
        return ()
    keys = read_public_keys(Path(path), "--trusted_keys_file: ")
    return tuple(dict.fromkeys(keys))


def read_public_keys(path: Path, where: str = "") -> list[bytes]:
    """Ed25519 public keys of a PEM file; text around them is allowed.

    Args:
        path: The file.
        where: What the messages begin with.

    Returns:
        At least one, 32 bytes each.

    Raises:
        UsageError: It cannot be read, has none, or has something else.
    """
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    keys = []
    for number, block in enumerate(_PEM.finditer(_read(path, where)), 1):
        if b"PRIVATE" in block[1]:
            raise UsageError(f"{where}{path} holds a private key; keep it off the server and give the public one")
        try:
            key: Any = load_pem_public_key(block[0])
        except (ValueError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PublicKey):
            raise UsageError(f"{where}{path}: key {number} is no Ed25519 public key in PEM")
        keys.append(key.public_bytes_raw())
    if not keys:
        raise UsageError(f"{where}{path} has no public key: expected PEM, -----BEGIN PUBLIC KEY-----")
    return keys


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """An Ed25519 private key of a PEM file, as `create_key` writes it.

    Raises:
        UsageError: It cannot be read, is encrypted, or is something else.
    """
    require_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key: Any = load_pem_private_key(_read(path, ""), password=None)
    except TypeError:
        raise UsageError(f"{path} is encrypted; give a key without a passphrase, readable by you alone") from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} is no Ed25519 private key in PEM; make one with create_key")
    return key


def _parse(signature: bytes) -> tuple[str, bytes]:
    try:
        content = json.loads(signature)
    except (ValueError, RecursionError):
        raise _broken(f"{SIGNATURE} is not JSON") from None
    if not isinstance(content, dict) or content.keys() != _KEYS or content["algorithm"] != "ed25519":
        raise _broken(f"{SIGNATURE} must be an object with algorithm ed25519, key_id and signature")
    try:
        value = base64.b64decode(content["signature"], validate=True)
    except (TypeError, ValueError):
        value = b""
    # Compared with its own encoding, because base64 has several spellings of the same bytes.
    if len(value) != 64 or base64.b64encode(value).decode() != content["signature"]:
        raise _broken(f"{SIGNATURE} must have signature, 64 bytes in base64")
    if not isinstance(content["key_id"], str):
        raise _broken(f"{SIGNATURE} must have key_id, a text")
    return content["key_id"][:64], value


def _read(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{where}cannot read {path}: {error.strerror}") from None


def _broken(reason: str) -> ServingError:
    return ServingError(Code.DATA_LOSS, f"Manifest check failed: {reason}")


if __name__ == "__main__":
    import sys

    from serving.security.signing_command import main

    sys.exit(main())
