"""Object stores: what a URL must be, what talks to a store, and what to say when that fails."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Scheme → the package that knows it, and the extra of tfbigmodel that brings it.
_PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
_CONNECT_SECONDS, _READ_SECONDS = 5, 60
# The library holds so many parts of 50 MB of each file in memory.
_PARTS_AT_A_TIME = 4


class RemoteError(Exception):
    """A store that cannot be reached, does not let us read, or has no such bucket: one line that says which."""


def is_remote(base_path: str) -> bool:
    """Whether a base path is a URL."""
    return "://" in base_path


def check_url(url: str) -> str:
    """The URL, if it names a place in a store that can be read here; asks no network.

    Raises:
        RemoteError: Another scheme, no bucket, or the package for it is not installed.
    """
    scheme, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0]:  # what stands before it is not shown
        raise RemoteError(f"{scheme}://…: a URL cannot have credentials; give them as the store's own tools take them")
    if scheme not in _PACKAGES:
        raise RemoteError(f"{url}: expected an absolute path, gs:// or s3://")
    if not rest.partition("/")[0]:
        raise RemoteError(f"{url} has no bucket; expected {scheme}://bucket/path")
    package, extra = _PACKAGES[scheme]
    if importlib.util.find_spec(package) is None:
        raise RemoteError(f"{url}: {scheme}:// needs {package}: pip install 'tfbigmodel[serving,{extra}]'")
    return url.rstrip("/")


def cache_folder(name: str, url: str) -> Path:
    """Where a model's versions are fetched to: a folder for this model and URL alone."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
    return cache / "tfbigmodel" / "serving" / hashlib.sha256(f"{name}\n{url}".encode()).hexdigest()[:16]


def filesystem(url: str) -> Any:
    """What talks to the store: with bounded time for connections, and passing errors tried again."""
    scheme = url.partition("://")[0]
    package, _ = _PACKAGES[scheme]
    # Their remarks are for programmers; what operators need is in the error.
    logging.getLogger(package).addHandler(logging.NullHandler())
    logging.getLogger(package).propagate = False
    if scheme == "s3":
        import s3fs

        store = s3fs.S3FileSystem(
            use_listings_cache=False,
            endpoint_url=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
            max_concurrency=_PARTS_AT_A_TIME,
            config_kwargs={
                "connect_timeout": _CONNECT_SECONDS,
                "read_timeout": _READ_SECONDS,
                "retries": {"mode": "standard", "total_max_attempts": 3},
            },
        )
        store.retries = 2  # around botocore's own
        return store
    import aiohttp
    import gcsfs.core

    # The plain class: the other one asks what kind each bucket is, for which few accounts have permission.
    endpoint = os.environ.get("STORAGE_EMULATOR_HOST")
    return gcsfs.core.GCSFileSystem(
        use_listings_cache=False,
        endpoint_url=endpoint,
        token="anon" if endpoint else None,  # an emulator knows nobody
        session_kwargs={
            "timeout": aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
        },
    )


@contextmanager
def told(url: str) -> Iterator[None]:
    """Turns what the store's library raises into a RemoteError; a fault of ours is raised as it is."""
    try:
        yield
    except Exception as error:
        # By module: each library has errors of its own, and lets those of the libraries below it through.
        modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, FileNotFoundError):
            raise RemoteError(f"{url} cannot be read: there is no such bucket or file ({reason})") from error
        if not isinstance(error, OSError) and not modules & {"botocore", "aiohttp", "gcsfs", "google", "requests"}:
            raise
        raise RemoteError(f"{url} cannot be read: {type(error).__name__}: {reason}") from error
