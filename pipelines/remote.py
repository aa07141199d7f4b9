"""Files in object stores: `gs://bucket/…` and `s3://bucket/…`, wherever a path is taken.

Everything else works on local files. What is read is fetched first, into the user's cache; what is written is written
locally and sent. `pipelines.object_store` talks to the stores.
"""

import glob
import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipelines.errors import MissingFileError, UserError
from pipelines.files import (
    atomic_folder,
    locked_in_turn,
    read_json,
    remove_temporaries,
    user_cache,
    write_json,
    write_text,
)
from pipelines.object_store import (
    ChangedError,
    bucket_of,
    check_url,
    fetch,
    filesystem,
    listing,
    remove,
    send,
    told,
    write_bytes,
)
from pipelines.remote_cache import RECORD, held, prune

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_THREADS = 16


def is_remote(path: object) -> bool:
    """Whether a path is a URL such as `gs://bucket/data`."""
    return isinstance(path, str) and _SCHEME.match(path) is not None


def join(base: Path | str, relative: Path | str) -> str:
    """A path below another one; each may be local or remote. An absolute or remote second path stands alone.

    Example:
        >>> join("s3://bucket/data", "train/*.csv")
        's3://bucket/data/train/*.csv'
    """
    if is_remote(relative) or os.path.isabs(relative) or not is_remote(base):
        return str(relative) if is_remote(relative) else str(Path(base, relative))
    scheme, _, rest = str(base).partition("://")
    bucket, _, folder = rest.partition("/")
    # Below a root, as a file system has it: no number of `..` leads into another bucket.
    path = posixpath.normpath(posixpath.join("/", folder.lstrip("/"), str(relative)))
    return f"{scheme}://{bucket}{path}".rstrip("/")


def absolute(path: Path | str) -> Path | str:
    """A local path made absolute, `~` replaced; a remote one as it is."""
    return path if is_remote(path) else Path(path).expanduser().absolute()


def matching(pattern: str) -> list[str]:
    """The files of a glob pattern (`*`, `?`, `[…]`, `**`), sorted; a name without such signs matches itself.

    Raises:
        UserError: the store cannot be reached, or does not let us list it.
    """
    if not is_remote(pattern):
        return sorted(name for name in glob.glob(pattern, recursive=True) if os.path.isfile(name))
    scheme = pattern.partition("://")[0]
    with told(pattern, "list"):
        if not glob.has_magic(pattern):
            return [pattern] if "" in listing(pattern) else []
        found = filesystem(pattern).glob(pattern, detail=True)
    return sorted(f"{scheme}://{name}" for name, info in found.items() if info["type"] == "file")


def matching_below(base: Path | str, pattern: str) -> list[str]:
    """`matching` of a pattern below a folder, whose own path may have brackets or stars in it."""
    return matching(join(base if is_remote(base) else glob.escape(str(base)), pattern))


def exists(path: Path | str) -> bool:
    """Whether a file or folder is there.

    Raises:
        UserError: the store cannot be reached, or does not let us look.
    """
    if not is_remote(path):
        return Path(path).exists()
    try:
        return bool(listing(str(path)))
    except MissingFileError:  # the bucket
        return False


def local(path: Path | str, wanted: Callable[[dict[str, str]], dict[str, str]] = dict) -> Path:
    """A local path as it is; a local copy of a remote file or folder, fetched where the cache has none of its content.

    Processes that want the same wait for the one that fetches it. A file that has changed in the store is fetched anew,
    also inside a folder, whose other files are taken over.

    Args:
        path: such as `data/train.csv` or `gs://bucket/data`.
        wanted: chooses from the `listing` of a remote folder what is fetched; all of it where it is not given.

    Returns:
        The path, or one in the user's cache whose last part is the same. It must not be written to.

    Raises:
        MissingFileError: there is no such remote file or folder.
        UserError: the store cannot be reached or does not let us read, or the cache cannot be written.

    Example:
        >>> local("s3://bucket/data/train.csv").name
        'train.csv'
    """
    if not is_remote(path):
        return Path(path)
    url = check_url(str(path)).rstrip("/")
    shelf = user_cache("remote") / key_of(url)
    for _ in range(3):
        files = wanted(listing(url))
        if not files:
            raise MissingFileError(f"{url} is not there: no such file or folder in bucket {bucket_of(url)}")
        place = shelf / key_of(repr(sorted(files.items())))
        copy = place / posixpath.basename(url)
        if held(place):
            return copy
        prune(shelf.parent)
        with _in_turn(shelf):
            if held(place) or (_fetched(url, files, place) and held(place)):
                return copy
    raise UserError(f"{url} is changing while it is read; run again when it is complete")


def local_files(paths: Sequence[Path | str]) -> list[Path]:
    """`local` of each, several at a time."""
    if not any(is_remote(path) for path in paths):
        return [Path(path) for path in paths]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(local, paths))


def upload(path: Path | str, url: str) -> None:
    """Makes a remote file or folder what a local one is.

    A file named manifest.json is sent last, since a folder in an object store, which cannot be renamed into place,
    exists when its manifest does. Remote files that the folder has not are removed.

    Raises:
        UserError: the store cannot be reached or does not let us write.

    Example:
        >>> upload("exported/dense/1", "gs://bucket/models/dense/1")
    """
    path = Path(path)
    if path.is_file():
        with told(url, "write"):
            filesystem(url).put_file(str(path), url)
        return
    names = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    gone = listing(url).keys() - names
    send(path, names, url)
    remove(url, gone)


def write_text_to(path: Path | str, text: str) -> None:
    """Writes a UTF-8 text file, local or remote, whole or not at all."""
    if is_remote(path):
        write_bytes(str(path), text.encode())
    else:
        write_text(path, text)


def key_of(text: str) -> str:
    """A short name for a URL, which a local folder can have."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _fetched(url: str, files: Mapping[str, str], place: Path) -> bool:
    """Makes `place` with a copy in it; False if one of the files changed meanwhile."""
    try:
        with atomic_folder(place) as temporary:
            copy = temporary / posixpath.basename(url)
            known = _linked(files, place, copy) if "" not in files else set()
            fetch(url, {name: version for name, version in files.items() if name not in known}, copy)
            write_json(temporary / RECORD, {"url": url, "files": files})
            now = listing(url)
            if any(now.get(name, version) != version for name, version in files.items()):
                raise ChangedError(url)
    except (ChangedError, MissingFileError):
        return False
    return True


def _linked(files: Mapping[str, str], place: Path, copy: Path) -> set[str]:
    """Takes over from earlier copies of a folder what has not changed; the names."""
    known: set[str] = set()
    for earlier in place.parent.glob(f"*/{RECORD}"):
        try:
            before = read_json(earlier)["files"]
        except FileNotFoundError:  # another process needs the room
            continue
        for name in {name for name, version in files.items() if before.get(name) == version} - known:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # somebody has tidied up, or the file system has no links: it is fetched anew
                os.link(earlier.parent / copy.name / name, copy / name)
                known.add(name)
    return known


@contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    lock = ExitStack()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.enter_context(locked_in_turn(folder / "lock"))
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror}; set XDG_CACHE_HOME to a folder of your own"
        ) from error
    with lock:
        remove_temporaries(folder)
        yield
