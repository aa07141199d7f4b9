"""Models in object stores: `gs://bucket/models/dense` and `s3://bucket/models/dense` as base paths.

A version exists when its `assets.extra/manifest.json` is there, which the exporter writes last, since object stores
cannot rename a folder into place. The versions that are wanted are fetched into a folder of the user's cache, each
whole or not at all, and the rest of the server sees that folder.

Credentials, region and endpoint are those of the store's own tools: the environment, their configuration files, the
machine's role. Everything here may take as long as the network does, and runs in the threads that load models.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import posixpath
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.manifest import MANIFEST
from serving.object_store import RemoteError, filesystem, told
from serving.versions import is_version, wanted_versions

if TYPE_CHECKING:
    from serving.model_config import ModelConfig

logger = logging.getLogger(__name__)

_KEPT_SECONDS = 3600
_FILES_AT_A_TIME = 4  # parts of each are in memory


def check_readable(url: str) -> None:
    """Looks whether a model's URL can be listed; it may have no versions yet.

    Raises:
        RemoteError: It cannot.
    """
    _versions(url)


def fetch_versions(config: ModelConfig) -> str:
    """Makes a remote model's folder have the versions that its policy wants.

    Others are removed from it when they are gone from the store, or an hour after they were fetched: another server on
    this machine may want them.

    Args:
        config: A model with a URL; its base path is the folder.

    Returns:
        Why a version could not be fetched, which keeps no other one from it; empty if all were.

    Raises:
        RemoteError: The store cannot be reached or does not let us list it; what is in the folder stays.
        OSError: The folder cannot be written.
    """
    troubles = []
    folder = config.base_path
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        for left_behind in folder.glob(".fetching-*"):
            shutil.rmtree(left_behind, ignore_errors=True)
        versions = _versions(config.url)
        wanted = [versions[number] for number in wanted_versions(config.policy, versions)]
        for name, files in wanted:
            if _read_record(folder, name) != files or not (folder / name).is_dir():
                try:
                    _fetch(f"{config.url}/{name}", files, folder, name)
                except (OSError, RemoteError) as error:
                    troubles.append(str(error))
        for child in folder.iterdir():
            if is_version(child.name) and child.name not in {name for name, _ in wanted}:
                gone = int(child.name) not in versions
                # As long as what is wanted cannot be had, the one before it may be needed.
                if gone or (not troubles and time.time() - child.stat().st_ctime > _KEPT_SECONDS):
                    _remove(folder, child.name)
    return "; ".join(troubles)


def _versions(url: str) -> dict[int, tuple[str, dict[str, str]]]:
    """The versions that exist: number → the folder's name, and each file's size and version."""
    root = url.partition("://")[2]
    with told(url):
        found = filesystem(url).find(root, detail=True)
    folders: dict[str, dict[str, str]] = {}
    for path, info in sorted(found.items()):
        name, _, relative = path.removeprefix(f"{root}/").partition("/")
        if info["type"] != "file" or not relative or relative.endswith("/") or not is_version(name):
            continue
        if posixpath.normpath(relative) != relative or relative.startswith(("../", "/")) or relative in (".", ".."):
            raise RemoteError(f"{url} holds an object named {name}/{relative}, which is no path of a file")
        version = info.get("ETag") or info.get("etag") or info.get("generation")
        folders.setdefault(name, {})[relative] = f"{info['size']} {version}"
    versions: dict[int, tuple[str, dict[str, str]]] = {}
    for name, files in folders.items():
        if MANIFEST in files:
            versions.setdefault(int(name), (name, files))
    return versions


def _fetch(url: str, files: dict[str, str], folder: Path, name: str) -> None:
    """Makes `folder/name` in one step."""
    size = sum(int(version.split()[0]) for version in files.values())
    if size > shutil.disk_usage(folder).free:  # told before, since it is tried again at every look
        raise RemoteError(f"{url} has {size:,} bytes, for which there is no room in {folder}")
    logger.info("fetching %s", url)
    scratch = Path(tempfile.mkdtemp(prefix=".fetching-", dir=folder))
    try:
        targets = [str(scratch / name / relative) for relative in files]
        for target in targets:
            os.makedirs(os.path.dirname(target), exist_ok=True)
        root = url.partition("://")[2]
        with told(url):
            sources = [f"{root}/{relative}" for relative in files]
            filesystem(url).get(sources, targets, batch_size=_FILES_AT_A_TIME)
        for target, version in zip(targets, files.values(), strict=True):
            if os.path.getsize(target) != int(version.split()[0]):
                raise RemoteError(f"{url}: {os.path.relpath(target, scratch / name)} was cut short on its way")
        _remove(folder, name)
        os.rename(scratch / name, folder / name)
        _record(folder, name).write_text(json.dumps(files), "utf-8")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove(folder: Path, name: str) -> None:
    """Removes a version that may be loaded: TensorFlow has read it by then."""
    _record(folder, name).unlink(missing_ok=True)
    if (folder / name).exists():
        doomed = Path(tempfile.mkdtemp(prefix=".fetching-", dir=folder))
        os.rename(folder / name, doomed / name)
        shutil.rmtree(doomed, ignore_errors=True)


def _record(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _read_record(folder: Path, name: str) -> Any:
    try:
        return json.loads(_record(folder, name).read_text("utf-8"))
    except (OSError, ValueError):
        return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits for other servers that serve the same from the same cache."""
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
