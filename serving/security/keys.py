"""Keys on disk: the library that reads them, and files that appear whole and with the right permissions."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from serving.errors import UsageError


def require_cryptography() -> None:
    """Checks that the library `cryptography` is there, which TLS and signatures need.

    Raises:
        UsageError: It is not installed.
    """
    try:
        importlib.import_module("cryptography.x509")
    except ImportError:
        raise UsageError(
            "TLS and signed manifests need the library cryptography: pip install 'tfbigmodel[serving]'"
        ) from None


def write_file(path: Path, content: bytes, mode: int, replace: bool = True) -> None:
    """Writes a file that appears whole or not at all, and is never readable by more than `mode` allows.

    Args:
        path: Where; the folder must exist.
        content: What.
        mode: The permissions, e.g. 0o600.
        replace: Whether an earlier file is replaced; its owner stays.

    Raises:
        UsageError: The file exists and is not to be replaced, or cannot be written.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.tmp-", dir=path.parent)
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(descriptor, mode)
            if replace and path.exists():
                # Somebody else's file written by root must stay readable for its owner.
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, path.stat().st_uid, path.stat().st_gid)
            file.flush()
            os.fsync(descriptor)
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # unlike a rename it fails where there is a file
        _sync_folder(path.parent)
    except FileExistsError:
        raise UsageError(f"{path} exists already and is not overwritten; choose another name") from None
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Lets one command at a time change the files of a folder; leaves nothing behind.

    Raises:
        UsageError: The folder cannot be opened.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(f"cannot open the folder {folder}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def kept_mode(path: Path, new: int) -> int:
    """The permissions for a file's next content: those it has without what is others', `new` where there is none."""
    try:
        return stat.S_IMODE(path.stat().st_mode) & 0o640 | 0o600
    except OSError:
        return new


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
