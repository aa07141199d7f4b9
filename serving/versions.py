"""The versions of a model on disk: which there are, which are wanted, and whether one has changed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from serving.model_config import VersionPolicy

_MAX_VERSION = 2**63 - 1  # versions are int64 on the wire


def versions_on_disk(base_path: Path) -> dict[int, Path]:
    """The children of a base path that are versions: directories whose name is a decimal number.

    Args:
        base_path: The model's directory.

    Returns:
        `{version: directory}`; `00000123` is version 123. Where two names mean one number, the first in name order.

    Raises:
        OSError: The base path cannot be listed.
    """
    versions: dict[int, Path] = {}
    for child in sorted(base_path.iterdir()):
        if is_version(child.name) and child.is_dir():
            versions.setdefault(int(child.name), child)
    return versions


def is_version(name: str) -> bool:
    """Whether a directory's name is a version's: a decimal number that fits the wire."""
    # isdigit alone also accepts digits of other scripts.
    return name.isascii() and name.isdigit() and int(name) <= _MAX_VERSION


def wanted_versions(policy: VersionPolicy, available: Iterable[int]) -> list[int]:
    """Those of the available versions that a policy wants, highest first.

    Example:
        >>> wanted_versions(VersionPolicy("latest", num_versions=2), [1, 2, 3])
        [3, 2]
    """
    descending = sorted(available, reverse=True)
    if policy.kind == "all":
        return descending
    if policy.kind == "specific":
        return [version for version in descending if version in policy.versions]
    return descending[: policy.num_versions]


def fingerprint(directory: Path) -> frozenset[tuple[str, int, int]]:
    """What a directory's files look like from outside: names, sizes in bytes, times of change in nanoseconds.

    It tells whether a version that failed to load is worth another try, without reading it. The time is that of the
    inode: copies keep the time of modification, and a mended permission does not touch it.
    """
    seen = set()
    for path in walk_files(directory):
        try:
            status = path.stat()
        except OSError:
            continue  # removed meanwhile: it is not part of the directory any more
        seen.add((path.relative_to(directory).as_posix(), status.st_size, status.st_ctime_ns))
    return frozenset(seen)


def walk_files(directory: Path) -> Iterator[Path]:
    """Every entry below a directory that is not itself a directory; links to directories are entries, not followed."""
    for folder, folders, files in os.walk(directory):
        for name in files:
            yield Path(folder, name)
        for name in folders:
            if Path(folder, name).is_symlink():
                yield Path(folder, name)
