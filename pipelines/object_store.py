"""Object stores: `gs://bucket/…` and `s3://bucket/…`, listed, read and written by URL.

Credentials, region and endpoint are those of the store's own tools: the environment, their configuration files, the
machine's role.

`tf.io.gfile` is not used: TensorFlow 2.21 has no `s3://`, and the paths are the same for every file here.
"""

import errno
import logging
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.errors import MissingFileError, OutageError, UserError

MANIFEST = "manifest.json"
"""The name of the files that are sent last: a folder that has one exists."""

# Scheme → the package that knows it, and the extra that brings the package.
_PACKAGES = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
_CREDENTIALS = {
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run: gcloud auth application-default login",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_DOTS = (".", "..")
_CONNECT_SECONDS, _READ_SECONDS = 5, 60
# The libraries hold whole files of up to 100 MB in memory, ten parts of larger ones, and 128 files at a time. Of s3fs'
# ten connections some stay free: a writer's sign of life must not wait behind a checkpoint on a slow network.
_MEMORY, _FILES_AT_A_TIME, _PARTS_AT_A_TIME = 256 * 2**20, 8, 4
# Errors of the local disk, which are told where files are written.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


class ChangedError(UserError):
    """A remote file that is not what it was when it was listed."""


def check_url(url: str) -> str:
    """The URL, if it names a place in a store that is known here; neither the network nor a library is needed.

    Raises:
        UserError: another scheme, or no bucket.
    """
    match = _SCHEME.match(url)
    scheme = match.group(1) if match else ""
    if "@" in bucket_of(url):  # what stands before it is not shown
        shown = f"{scheme}://…@{bucket_of(url).rpartition('@')[2]}"
        raise UserError(f"{shown}: a URL cannot have credentials; {_CREDENTIALS.get(scheme, 'leave them out')}")
    if scheme not in _PACKAGES:
        expected = " or ".join(f"{known}://" for known in _PACKAGES)
        raise UserError(f"{url.partition('?')[0]}: expected a local path, or {expected}; received {scheme}://")
    if not bucket_of(url):
        raise UserError(f"{url} has no bucket; expected {scheme}://bucket/path")
    return url


def listing(url: str) -> dict[str, str]:
    """Every file below a remote folder: relative path → size and version, which change with its content.

    Returns:
        `{"": version}` for a file, and nothing where nothing is there.

    Raises:
        UserError: there is no such bucket, it cannot be reached, or does not let us list it.
    """
    root = check_url(url).rstrip("/").partition("://")[2]
    with told(url, "list"):
        found = filesystem(url).find(root, detail=True)
    files = {}
    for name, info in found.items():
        relative = name.removeprefix(root).removeprefix("/")
        if info["type"] != "file" or name.endswith("/"):  # consoles mark folders by empty objects
            continue
        if relative and not _is_below(relative):
            raise UserError(f"{url} holds an object named {relative!r}, which is no path of a file")
        version = info.get("ETag") or info.get("etag") or info.get("generation") or info.get("LastModified")
        files[relative] = f"{info['size']} {version}"
    for name in {parent for relative in files for parent in _parents(relative)} & files.keys():
        if not files[name].startswith("0 "):  # else another mark of a folder
            raise UserError(f"{url} holds objects named {name!r} and below it, which cannot be a file and a folder")
        del files[name]
    return files


def _parents(name: str) -> Iterator[str]:
    while name := posixpath.dirname(name):
        yield name


def _is_below(relative: str) -> bool:
    """Whether a name is a path that stays in its folder: what is fetched is written under it."""
    return posixpath.normpath(relative) == relative and not relative.startswith(("/", "../")) and relative not in _DOTS


def fetch(url: str, names: Mapping[str, str], folder: Path) -> None:
    """Reads files below a remote folder into a local one, many at a time.

    Args:
        url: the remote folder, or file.
        names: from `listing`: which of them, with their sizes.
        folder: where they go, under the same names; for a file (`""`) the path itself.

    Raises:
        ChangedError: a file is not as large as it was listed.
        UserError: the store cannot be reached or does not let us read.
        OSError: the local disk is full.
    """
    targets = [str(Path(folder, name)) for name in names]
    for target in targets:
        os.makedirs(os.path.dirname(target), exist_ok=True)
    sizes = [int(version.split()[0]) for version in names.values()]
    if targets:
        with told(url, "read"):
            sources = [object_path(url, name) for name in names]
            filesystem(url).get(sources, targets, batch_size=_at_a_time(sizes))
    for target, size in zip(targets, sizes, strict=True):
        if os.path.getsize(target) != size:
            raise ChangedError(f"{url}: {os.path.basename(target)} was cut short on its way; run again")


def send(folder: Path, names: Iterable[str], url: str) -> None:
    """Writes files below a local folder to a remote one; those named manifest.json after all others.

    Raises:
        UserError: the store cannot be reached or does not let us write.
    """
    names = sorted(names)
    manifests = [name for name in names if posixpath.basename(name) == MANIFEST]
    for batch in ([name for name in names if name not in manifests], manifests):
        if batch:
            with told(url, "write"):
                sources = [str(Path(folder, name)) for name in batch]
                targets = [object_path(url, name) for name in batch]
                filesystem(url).put(sources, targets, batch_size=_at_a_time(map(os.path.getsize, sources)))


def _at_a_time(sizes: Iterable[int]) -> int:
    """How many files of such sizes may be on their way at once."""
    return max(1, min(_FILES_AT_A_TIME, _MEMORY // max([1, *sizes])))


def remove(url: str, names: Iterable[str]) -> None:
    """Removes files below a remote folder; those named manifest.json first, and what is gone already is no error.

    Raises:
        UserError: the store cannot be reached or does not let us write.
    """
    names = sorted(names, key=lambda name: posixpath.basename(name) != MANIFEST)
    store = filesystem(url)
    with told(url, "write"):
        for name in names:
            try:
                store.rm_file(object_path(url, name))
            except FileNotFoundError:
                continue


def read_bytes(url: str) -> bytes:
    """A small remote file.

    Raises:
        MissingFileError: it is not there.
        UserError: the store cannot be reached or does not let us read.
    """
    with told(url, "read"):
        content: bytes = filesystem(url).cat_file(url)
    return content


def write_bytes(url: str, content: bytes, create: bool = False) -> bool:
    """Writes a small remote file, in one step.

    Args:
        url: where.
        content: what.
        create: only where nothing is there yet, as far as the store can tell.

    Returns:
        Whether it was written.

    Raises:
        UserError: the store cannot be reached or does not let us write.
    """
    with told(url, "write"):
        try:
            filesystem(url).pipe_file(url, content, mode="create" if create else "overwrite")
        except FileExistsError:
            return False
    return True


@contextmanager
def told(url: str, action: str) -> Iterator[None]:
    """Turns what a store's library raises into one line; it raises what is no fault of the store's as it is.

    Args:
        url: what was to be read or written.
        action: read, write or list.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS and not isinstance(error, PermissionError):
            raise
        explained = _explained(error, url, action)
        if explained is None:
            raise
        raise explained from error


def _explained(error: Exception, url: str, action: str) -> UserError | None:
    # By name: each library has errors of its own, is optional, and lets those of the libraries below it through.
    kinds = {kind.__name__ for kind in type(error).__mro__}
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    scheme, bucket = url.partition("://")[0], bucket_of(url)
    reason = " ".join(str(error).split()) or type(error).__name__
    code = str(getattr(error, "code", ""))
    if isinstance(error, FileNotFoundError):
        if "bucket does not exist" in reason or reason == f"b/{bucket}/o":
            return MissingFileError(f"{url}: there is no bucket {bucket}")
        return MissingFileError(f"{url} is not there: no such file or folder in bucket {bucket}")
    if kinds & {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError",
                "DefaultCredentialsError", "TokenRetrievalError", "SSOError"}:  # fmt: skip
        return UserError(f"no credentials to {action} {url} ({reason}); {_CREDENTIALS[scheme]}")
    if isinstance(error, PermissionError) or code in ("401", "403") or reason.startswith("Forbidden"):
        return UserError(f"no permission to {action} {url} ({reason}); {_CREDENTIALS[scheme]}, of an account that may")
    if (
        kinds & {"HTTPClientError", "ConnectionError", "ClientConnectionError", "ServerTimeoutError", "TransportError",
                 "TimeoutError", "RequestException", "ClientPayloadError"}
        or code in ("408", "429", "500", "502", "503", "504")
        or (isinstance(error, OSError) and error.errno in (errno.EBUSY, errno.EREMOTEIO))
    ):  # fmt: skip
        return OutageError(f"cannot reach {url} ({reason}); check the network and run again")
    if isinstance(error, OSError) or modules & {"botocore", "aiohttp", "gcsfs", "google"} or "Bad Request" in reason:
        return UserError(f"cannot {action} {url}: {reason}")
    return None


def filesystem(url: str) -> Any:
    """What talks to the store of a URL: with bounded time for connections, and passing errors tried again."""
    scheme = check_url(url).partition("://")[0]
    package, extra = _PACKAGES[scheme]
    # Their remarks are for programmers; what users need is in the error.
    logging.getLogger(package).addHandler(logging.NullHandler())
    logging.getLogger(package).propagate = False
    try:
        if scheme == "s3":
            import s3fs

            # Read here as well, so that another endpoint is another connection.
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            store = s3fs.S3FileSystem(
                use_listings_cache=False,
                endpoint_url=endpoint,
                max_concurrency=_PARTS_AT_A_TIME,
                config_kwargs={
                    "connect_timeout": _CONNECT_SECONDS,
                    "read_timeout": _READ_SECONDS,
                    "retries": {"mode": "standard", "total_max_attempts": 5},
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
    except ImportError as error:
        raise UserError(f"{url}: {scheme}:// needs {package}: pip install 'tfbigmodel[{extra}]'") from error


def object_path(url: str, name: str) -> str:
    root = url.rstrip("/").partition("://")[2]
    return f"{root}/{name}" if name else root


def bucket_of(url: str) -> str:
    return url.partition("://")[2].partition("/")[0]
