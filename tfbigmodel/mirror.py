"""Workdirs in object stores: a run goes on in a local folder, and what changes there is sent after each checkpoint.

One process writes a remote workdir at a time; `remote_writer` sees to that.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Container, Iterable, Iterator
from pathlib import Path

from pipelines.errors import MissingFileError, UserError
from pipelines.files import (
    TEMPORARY_MARK,
    atomic_folder,
    locked_file,
    read_json,
    remove_folder,
    remove_temporaries,
    temporary_beside,
    user_cache,
    write_json,
)
from pipelines.object_store import MANIFEST, check_url, fetch, listing, read_bytes, remove, send
from pipelines.remote import absolute, is_remote, join, key_of, local
from tfbigmodel.remote_writer import BEAT_SECONDS, STALE_SECONDS, WRITER, TakenOverError, Writer

_CONFIG = "config.yaml"
_STEP = re.compile(r"checkpoints/(step-\d+)/")


@contextlib.contextmanager
def mirrored(
    workdir: Path | str, beat_seconds: float = BEAT_SECONDS, stale_seconds: float = STALE_SECONDS
) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A local folder that a run can be kept in, wherever its workdir is; for the one process that writes it.

    Args:
        workdir: local or remote.
        beat_seconds: between two signs of life.
        stale_seconds: without a sign of life, after which another process's workdir is taken over.

    Yields:
        The folder, and a function that sends what has changed in it since. That warns where the store cannot be
        reached, and tries again the next time. Both are the workdir itself and nothing to do, where that is local.
        When the block ends, everything is sent and the local copy is removed; if that fails, it is kept and named.

    Raises:
        UserError: another process writes there, the store cannot be reached or does not let us write, or the remote
            folder is no workdir.

    Example:
        >>> with mirrored("s3://bucket/runs/dense") as (path, publish):
        ...     (path / "metrics.json").write_text("{}")
        ...     publish()
    """
    if not is_remote(workdir):
        yield Path(workdir), lambda: None
        return
    url = check_url(str(workdir)).rstrip("/")
    _check_is_workdir(url, listing(url))
    with _local_copy(url) as copy, Writer(url, copy.owner, beat_seconds, stale_seconds) as writer:
        copy.begin(writer.before)
        copy.path.mkdir(exist_ok=True)

        def publish() -> None:
            writer.check()
            copy.publish()

        def publish_or_warn() -> None:
            try:
                publish()
            except TakenOverError:
                raise
            except UserError as error:
                print(f"warning: {error}; it is tried again with the next checkpoint", file=sys.stderr)

        def end() -> None:
            try:
                publish()
                writer.release(keep=copy.is_run)
            except UserError as error:
                kept = f"{error}; the run is kept in {copy.path}"
                if isinstance(error, TakenOverError):
                    raise TakenOverError(kept) from error
                raise type(error)(f"{kept}, and the same command sends it again") from error
            copy.remove()

        try:
            yield copy.path, publish_or_warn
        except BaseException:
            try:
                end()
            except UserError as error:  # what ended the run is raised, and this said besides
                print(f"warning: {error}", file=sys.stderr)
            raise
        end()


def readable(workdir: Path | str) -> Path:
    """A local folder with what a trained run's commands read: of a remote one a copy, in the user's cache.

    It has neither event files nor evaluations, and of the checkpoints that are whole the newest and the best.

    Raises:
        MissingFileError: there is no such workdir.
        UserError: the store cannot be reached or does not let us read.
    """
    if not is_remote(workdir):
        return Path(workdir)
    url = check_url(str(workdir)).rstrip("/")
    return local(url, lambda files: _needed(url, files))


@contextlib.contextmanager
def borrowed(workdir: Path | str) -> Iterator[Path]:
    """A local folder with what a trained run's commands read, to which files may be added that are sent at the end.

    Args:
        workdir: local or remote.

    Raises:
        UserError: as `readable`; or the store does not let us write, and the message says where the files are.
    """
    if not is_remote(workdir):
        yield Path(workdir)
        return
    url = str(workdir).rstrip("/")
    source = readable(url)
    folder = Path(tempfile.mkdtemp(prefix="tfbigmodel-"), source.name)
    try:
        # Every writer replaces files in one step, so that the cache's are not touched.
        shutil.copytree(source, folder, copy_function=_link)
        before = _stamps(folder)
        yield folder
        changed = [name for name, stamp in _stamps(folder).items() if before.get(name) != stamp]
        try:
            send(folder, changed, url)
        except UserError as error:
            kept = _copied(folder, changed, Path(tempfile.mkdtemp(prefix="tfbigmodel-"), source.name))
            raise type(error)(f"{error}; what was to be sent is in {kept}") from error
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)


def _needed(url: str, files: dict[str, str]) -> dict[str, str]:
    """Of a workdir's files those that `readable` fetches."""
    _check_is_workdir(url, files)
    steps = sorted({match[1] for name in files if (match := _STEP.match(name))})
    whole = [step for step in steps if f"checkpoints/{step}/manifest.json" in files]
    rated = []
    for step in whole:
        try:
            content = read_bytes(join(url, f"checkpoints/{step}/state.json"))
        except MissingFileError:  # pruned meanwhile
            continue
        with contextlib.suppress(ValueError, AttributeError):  # damaged
            monitor = json.loads(content).get("monitor")
            rated += [(monitor, step)] if isinstance(monitor, float) else []
    kept = {*whole[-1:], *(step for _, step in sorted(rated)[:1])}
    return {
        name: version
        for name, version in files.items()
        if not name.startswith(("tensorboard/", "evaluation/", "checkpoints/damaged-")) and name != WRITER
        if not (match := _STEP.match(name)) or match[1] in kept
    }


def _check_is_workdir(url: str, files: dict[str, str]) -> None:
    # Nothing is fetched from, let alone written to, what may be a folder of data.
    if files.keys() - {WRITER} and _CONFIG not in files:
        raise UserError(f"{url} holds other files and is no workdir; choose an empty or a new --workdir")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, which may have no room for a run's weights
        os.symlink(os.path.abspath(source), target)


def _copied(folder: Path, names: Iterable[str], target: Path) -> Path:
    """Copies files below a folder into another one; those that are gone are left out."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(folder / name, target / name)
    return target


def _stamps(folder: Path) -> dict[str, list[int]]:
    """Every file of a run → what changes when it is written; without locks, and what is not whole yet."""
    stamps = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if TEMPORARY_MARK not in name]
        for name in names:
            if TEMPORARY_MARK in name or name == ".lock":
                continue
            with contextlib.suppress(FileNotFoundError):  # replaced meanwhile: the next look finds it
                status = os.stat(os.path.join(parent, name))
                relative = Path(parent, name).relative_to(folder).as_posix()
                stamps[relative] = [status.st_size, status.st_mtime_ns, status.st_ino]
    return stamps


class _Copy:
    """The local copy of a remote workdir, and what is known to be in the store.

    Attributes:
        path: the copy, in a folder of its own in the user's cache.
        owner: marks what was written to the store from this copy.
    """

    def __init__(self, url: str, place: Path) -> None:
        self._url, self._record = url, place / "sent.json"
        self.path = place / url.rpartition("/")[2]
        self._sent: dict[str, list[int]] = {}
        self._remote: set[str] = set()
        self._turn = threading.Lock()  # the saver's thread publishes, and the main one at the end
        self.owner = uuid.uuid4().hex
        if self._record.is_file():
            record = read_json(self._record)
            self.owner, self._sent = record["owner"], record["sent"]
        else:
            self._note()  # whoever is killed while it fetches need not wait for its own mark

    @property
    def is_run(self) -> bool:
        """Whether a run has begun in it."""
        return (self.path / _CONFIG).is_file()

    def begin(self, last_writer: str | None) -> None:
        """Makes the copy what the store has; one that nobody has written to since is ahead of it, and stays."""
        files = {name: version for name, version in listing(self._url).items() if name != WRITER}
        if last_writer != self.owner or not self.path.is_dir():
            if self.path.is_dir() and any(self._sent.get(name) != stamp for name, stamp in _stamps(self.path).items()):
                aside = self.path.with_name(f"{self.path.name}-unsent-{uuid.uuid4().hex[:8]}")
                os.rename(self.path, aside)
                print(
                    f"warning: {self._url} was written by another process since; what was not sent is in {aside}",
                    file=sys.stderr,
                )
            # Whole or not at all: what is missing here would be taken for removed, and be removed from the store.
            remove_folder(self.path)
            remove_temporaries(self.path.parent)
            with atomic_folder(self.path) as arriving:
                fetch(self._url, files, arriving)
            self._sent = _stamps(self.path)
        # What others have added meanwhile, such as an evaluation's report, is not here, and stays there.
        self._remote = files.keys() & self._sent.keys()
        self._note()

    def publish(self) -> None:
        """Makes the store what the copy is: a checkpoint's manifest is sent last, and what is gone here removed."""
        with self._turn:
            now, there = _stamps(self.path), listing(self._url)
            gone = self._remote - now.keys()
            # Somebody may have removed from the store what was sent.
            changed = [name for name, stamp in now.items() if self._sent.get(name) != stamp or name not in there]
            self._send(changed, there)
            # The next start is to remove them, if this process does not come to it.
            self._sent = {**{name: [] for name in gone}, **now}
            self._note()
            remove(self._url, gone)
            self._sent, self._remote = now, set(now)

    def _send(self, names: list[str], there: Container[str]) -> None:
        checkpoints = [name for name in names if name.startswith("checkpoints/")]
        scratch = temporary_beside(self.path)
        try:
            # Stores refuse a file that grows on its way, as TensorBoard's do; checkpoints appear whole.
            _copied(self.path, set(names) - set(checkpoints), scratch)
            others = _stamps(scratch).keys()
            for part in ({_CONFIG} & others, others - {_CONFIG}):  # without its config.yaml it is no workdir
                send(scratch, part, self._url)
        except OSError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"cannot write {scratch.parent}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        # A checkpoint that is written anew is none until all of it is there.
        remove(self._url, [name for name in checkpoints if name.endswith(f"/{MANIFEST}") and name in there])
        send(self.path, checkpoints, self._url)

    def remove(self) -> None:
        """Removes the copy, all of which is in the store."""
        remove_folder(self.path)
        self._record.unlink(missing_ok=True)

    def _note(self) -> None:
        write_json(self._record, {"url": self._url, "owner": self.owner, "sent": self._sent})


@contextlib.contextmanager
def _local_copy(url: str) -> Iterator[_Copy]:
    place = Path(absolute(user_cache("runs") / key_of(url)))
    lock = contextlib.ExitStack()
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock.enter_context(locked_file(place / ".lock"))
    except UserError as error:
        raise UserError(str(error).replace(str(place), url)) from error
    except OSError as error:
        raise UserError(
            f"cannot write {place}: {error.strerror}; set XDG_CACHE_HOME to a folder of your own"
        ) from error
    with lock:
        yield _Copy(url, place)
