"""Files that appear whole or not at all: written under a temporary name, synced to disk, then renamed into place."""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.errors import UserError

# What a killed process may leave behind carries this mark, so that the next one can tell it from data and remove it.
TEMPORARY_MARK = ".tmp-"
_TEMPORARY_NAME = re.compile(r"\..+\.tmp-[0-9a-f]{8}")


@contextmanager
def atomic_file(path: Path | str) -> Iterator[BinaryIO]:
    """Opens a file for writing that appears at `path` only when the block ends without an error.

    Args:
        path: where the file will be. Its folder is made; an earlier file is replaced in one step.

    Yields:
        A binary file, open for writing.

    Raises:
        UserError: there is no permission to write, or the disk is full; an earlier file at `path` is untouched.

    Example:
        >>> with atomic_file("metrics.json") as file:
        ...     file.write(b"{}")
    """
    path = Path(path)
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove_if_there(temporary)
        raise _write_error(path, error) from error
    except BaseException:
        _remove_if_there(temporary)
        raise


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Makes a folder that appears at `path`, with all that the block put into it, only when the block ends well.

    Args:
        path: where the folder will be. It must not exist: a folder cannot be replaced in one step.

    Yields:
        The temporary folder to write into, beside `path`.

    Raises:
        UserError: `path` exists, there is no permission to write, or the disk is full.
    """
    path = Path(path)
    if path.exists():
        raise UserError(f"{path} exists already and is not overwritten; remove it or choose another name")
    temporary = temporary_beside(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync_file(Path(folder, name))
            _sync_folder(Path(folder))
        os.rename(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _write_error(path, error) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_text(path: Path | str, text: str) -> None:
    """Writes a UTF-8 text file, whole or not at all."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Writes a JSON file, whole or not at all; text other than ASCII stays readable."""
    write_text(path, _json_text(value))


def read_json(path: Path | str) -> Any:
    """Reads a JSON file.

    Raises:
        UserError: it is not JSON; the message has the line and column.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is damaged: it is not JSON text") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def user_cache(name: str) -> Path:
    """The folder of this name in the user's cache, which may not be there yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tfbigmodel", name)


def write_manifest(folder: Path, name: str) -> None:
    """Writes `folder/name` with the SHA-256 of every other file below `folder`.

    The format is `{"algorithm": "sha256", "files": {path relative to folder: hex}}`. It is written last: a folder
    whose manifest is there and agrees is complete.
    """
    files = {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / name
    }
    write_json(folder / name, {"algorithm": "sha256", "files": files})


def verify_manifest(folder: Path, name: str) -> None:
    """Checks every file below `folder` against its manifest.

    Raises:
        UserError: the manifest or a file is missing, was added, or has another checksum; the message names it.
    """
    if not (folder / name).is_file():
        raise UserError(f"{folder / name} is missing: the folder is not complete")
    manifest = read_json(folder / name)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise UserError(f"{folder / name} is not a manifest of checksums")
    # It has no checksum itself, but only one form.
    if manifest.get("algorithm") != "sha256" or _json_text(manifest) != (folder / name).read_text(encoding="utf-8"):
        raise UserError(f"{folder / name} is damaged: it is not as it was written")
    listed: dict[str, str] = manifest["files"]
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p != folder / name}
    for relative in sorted(found - listed.keys()):
        raise UserError(f"{folder / relative} is not listed in {name}: it was added after the folder was written")
    for relative, expected in sorted(listed.items()):
        if relative not in found:
            raise UserError(f"{folder / relative} is listed in {name} and missing")
        if sha256(folder / relative) != expected:
            raise UserError(f"{folder / relative} is damaged: its SHA-256 is not the one in {name}")


def remove_folder(folder: Path) -> None:
    """Removes a folder so that a kill in between leaves no half of it under its name."""
    if folder.exists():
        doomed = temporary_beside(folder)
        os.rename(folder, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


@contextmanager
def locked_file(path: Path) -> Iterator[None]:
    """Holds the lock of a file, which is made if missing; a killed process's lock is gone with it.

    Args:
        path: a file of no other use; the process that has the lock writes its number into it.

    Raises:
        UserError: another process has it; the message names the process.
        OSError: the file cannot be made, or its file system has no locks.
    """
    with open(path, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:  # not what a file system without locks raises, which would be waited for
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise UserError(f"{path.parent} is in use by process {owner}; wait for it or use another") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def locked_in_turn(path: Path) -> Iterator[None]:
    """Holds the lock of a file as `locked_file` does, after waiting for whoever has it.

    Raises:
        OSError: the file cannot be made.
    """
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked_file(path))
                break
            except UserError:  # another process has it, and will be done some time
                time.sleep(0.2)
        yield


def remove_temporaries(folder: Path) -> None:
    """Removes what a killed process left half-written directly below `folder`; no other may be writing there."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if not _TEMPORARY_NAME.fullmatch(path.name):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """A name beside `path` that nothing else has, and that `remove_temporaries` knows."""
    return path.with_name(f".{path.name}{TEMPORARY_MARK}{uuid.uuid4().hex[:8]}")


def _json_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _remove_if_there(path: Path) -> None:
    # Where the file could not be made, for a parent that is no folder for instance, it cannot be removed either; the
    # error that stopped the writing is the one to tell.
    with suppress(OSError):
        path.unlink()


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_error(path: Path, error: OSError) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error, PermissionError):
        return UserError(f"no permission to write {path}; choose another place or change the folder's permissions")
    remedy = "; make room and start again" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return UserError(f"cannot write {path}: {error.strerror or error}{remedy}")
