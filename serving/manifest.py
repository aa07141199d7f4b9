"""The manifest of an export: a SHA-256 for every file, checked before a version is loaded.

It finds a copy that was cut short and a file that was changed or added. It does not prove who wrote the version.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from serving.errors import Code, ServingError
from serving.versions import walk_files

MANIFEST = "assets.extra/manifest.json"


def verify_manifest(version_directory: Path) -> bool:
    """Checks every file of a version against its manifest.

    Args:
        version_directory: A version of a model, e.g. `/models/dense/3`.

    Returns:
        True if there is a manifest and all files match it, False if the version has none.

    Raises:
        ServingError: DATA_LOSS, naming the first file that is missing, extra or different, or what is wrong with the
            manifest itself.
    """
    path = version_directory / MANIFEST
    if not path.exists():
        return False
    expected = _read(path)
    found = {file.relative_to(version_directory).as_posix() for file in walk_files(version_directory)} - {MANIFEST}
    for name in sorted(expected.keys() - found):
        raise _broken(f"file {name} is missing")
    for name in sorted(found - expected.keys()):
        raise _broken(f"file {name} is not in the manifest")
    for name in sorted(found):
        digest = _sha256(version_directory / name)
        if digest != expected[name].lower():
            raise _broken(f"file {name} has SHA-256 {digest}, the manifest says {expected[name]}")
    return True


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(f"{MANIFEST} cannot be read: {error}") from None
    if not isinstance(content, dict) or content.get("algorithm") != "sha256":
        raise _broken(f"{MANIFEST} must be an object with algorithm sha256")
    files = content.get("files")
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise _broken(f"{MANIFEST} must have files, an object of path: SHA-256 in hexadecimal")
    return files


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _broken(f"file {path.name} cannot be read: {error}") from None


def _broken(reason: str) -> ServingError:
    return ServingError(Code.DATA_LOSS, f"Manifest check failed: {reason}")
