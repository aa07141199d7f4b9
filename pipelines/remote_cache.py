"""What is kept of remote files: the least recently used copies go, and none that a living process has asked for.

Every process that uses copies has a file in `users/`, with their names in it, and holds its lock to its end. Whoever
adds to such a file or reads them all does so under the lock of `users/.lock`: alone, or together with others who add.
"""

import fcntl
import functools
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from pipelines.errors import UserError
from pipelines.files import read_json, remove_folder

VARIABLE, DEFAULT_GIGABYTES = "TFBIGMODEL_CACHE_GB", 100.0
"""The environment variable with what may be kept, in 10⁹ bytes."""
RECORD = "files.json"
"""The file in a copy's folder that says of which files it is: `{"url": …, "files": {name: size and version}}`."""

_turn = threading.Lock()
_mine: dict[Path, IO[str]] = {}  # cache → this process's file in it


def held(place: Path) -> bool:
    """Whether a copy's folder, `<cache>/<shelf>/<place>`, is there; if so it stays to the end of this process."""
    cache = place.parent.parent
    try:
        with _turn, _locked(cache, fcntl.LOCK_SH if cache in _mine else fcntl.LOCK_EX):
            if not place.exists():
                return False
            if cache not in _mine:
                _in_use(cache / "users")
                _mine[cache] = open(cache / "users" / uuid.uuid4().hex, "x", encoding="utf-8")  # noqa: SIM115
                fcntl.flock(_mine[cache], fcntl.LOCK_EX)
            _mine[cache].write(f"{place.parent.name}/{place.name}\n")
            _mine[cache].flush()
            os.utime(place / RECORD)
            return True
    except OSError:  # who may not write there removes nothing either
        return place.exists()


@functools.cache
def prune(cache: Path) -> None:
    """Removes copies, those that were asked for least recently first, until the others have no more than is allowed.

    Once in a process: what that fetches comes on top.

    Raises:
        UserError: the environment variable is no number.
    """
    text = os.environ.get(VARIABLE) or str(DEFAULT_GIGABYTES)
    try:
        room = float(text) * 1e9
    except ValueError as error:
        raise UserError(f"{VARIABLE}: expected a number of gigabytes, received {text}") from error
    with suppress(OSError), _locked(cache, fcntl.LOCK_EX):
        in_use = _in_use(cache / "users")
        copies = [
            (f"{record.parts[-3]}/{record.parts[-2]}" in in_use, record.stat().st_mtime, record)
            for record in cache.glob(f"*/*/{RECORD}")
            if not record.parent.name.startswith(".")  # on its way
        ]
        seen: set[tuple[str, str, str]] = set()
        for is_used, _, record in sorted(copies, reverse=True):
            shelf = record.parts[-3]
            # Copies on one shelf share the files that are the same.
            files = {(shelf, name, version) for name, version in read_json(record)["files"].items()} - seen
            size = sum(int(version.split()[0]) for _, _, version in files)
            if size > room and not is_used:
                remove_folder(record.parent)
            else:
                room -= size
                seen |= files


def _in_use(users: Path) -> set[str]:
    """The copies of living processes; the files of others are removed."""
    names: set[str] = set()
    for path in users.glob("[0-9a-f]*"):
        with open(path, encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                names.update(file.read().split("\n"))
    return names


@contextmanager
def _locked(cache: Path, kind: int) -> Iterator[None]:
    (cache / "users").mkdir(parents=True, exist_ok=True)
    with open(cache / "users" / ".lock", "a") as lock:
        fcntl.flock(lock, kind)
        yield
