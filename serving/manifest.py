"""The manifest of an export: a SHA-256 for every file, checked before a version is loaded.

It finds a copy that was cut short and a file that was changed or added. Who wrote the version, only its signature
proves (`serving.security.signing`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from serving.errors import Code, ServingError
from serving.security.signing import SIGNATURE, check_signature
from serving.versions import walk_files

MANIFEST = "assets.extra/manifest.json"


def verify_manifest(
    version_directory: Path, trusted_keys: Sequence[bytes] = (), require_signature: bool = False
) -> bool:
    """Checks every file of a version against its manifest, and the manifest against its signature.

    The files are read here, and once more by TensorFlow when it loads them. So this protects against versions that
    were changed before they came here (on the way, in a bucket, by whoever exports); not against somebody who can
    write this directory while it is read: such a user can also replace a file between the two readings. Let the
    server's user, and whoever exports, be the only ones who may write it.

    Args:
        version_directory: A version of a model, e.g. `/models/dense/3`.
        trusted_keys: Public keys (`serving.security.signing.read_trusted_keys`). With none, signatures are not looked
            at; with some, a signature that is there must be by one of them.
        require_signature: Whether a version must be signed.

    Returns:
        True if there is a manifest and all files match it, False if the version has none.

    Raises:
        ServingError: DATA_LOSS, naming the first file that is missing, extra or different, or what is wrong with the
            manifest or its signature; PERMISSION_DENIED if the version is not signed by a trusted key.
    """
    path, signature = version_directory / MANIFEST, version_directory / SIGNATURE
    signed = signature.exists()
    if require_signature and not signed:
        raise ServingError(
            Code.PERMISSION_DENIED,
            f"Manifest check failed: the version is not signed, and --require_signed_manifest is set; sign it with "
            f"python -m serving.security.signing sign --key key.pem {version_directory}",
        )
    if not path.exists():
        if signed:
            raise _broken(f"{SIGNATURE} is there and {MANIFEST} is missing")
        return False
    manifest = _read(path)  # once: what is checked here is what is used below
    if signed and (trusted_keys or require_signature):
        check_signature(manifest, _read(signature), trusted_keys)
    expected = _parse(manifest)
    # Neither can have its own hash in the manifest.
    found = {file.relative_to(version_directory).as_posix() for file in walk_files(version_directory)}
    found -= {MANIFEST, SIGNATURE}
    for name in sorted(expected.keys() - found):
        raise _broken(f"file {name} is missing")
    for name in sorted(found - expected.keys()):
        raise _broken(f"file {name} is not in the manifest")
    for name in sorted(found):
        digest = _sha256(version_directory / name)
        if digest != expected[name].lower():
            raise _broken(f"file {name} has SHA-256 {digest}, the manifest says {expected[name]}")
    return True


def _read(path: Path) -> bytes:
    _check_regular(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _broken(f"assets.extra/{path.name} cannot be read: {error}") from None


def _parse(manifest: bytes) -> dict[str, str]:
    try:
        content = json.loads(manifest)
    except (ValueError, RecursionError) as error:
        raise _broken(f"{MANIFEST} cannot be read: {error}") from None
    if not isinstance(content, dict) or content.get("algorithm") != "sha256":
        raise _broken(f"{MANIFEST} must be an object with algorithm sha256")
    files = content.get("files")
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise _broken(f"{MANIFEST} must have files, an object of path: SHA-256 in hexadecimal")
    return files


def _sha256(path: Path) -> str:
    _check_regular(path)
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _broken(f"file {path.name} cannot be read: {error}") from None


def _check_regular(path: Path) -> None:
    if path.exists() and not path.is_file():  # a pipe would keep the loading thread waiting for ever
        raise _broken(f"{path.name} is no regular file")


def _broken(reason: str) -> ServingError:
    return ServingError(Code.DATA_LOSS, f"Manifest check failed: {reason}")
