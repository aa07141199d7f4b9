"""Finding files of examples, and what they have in common: format and columns."""

import dataclasses
import glob
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines import remote
from pipelines.data import Split
from pipelines.errors import MissingFileError, UserError
from pipelines.lookup import require_file
from pipelines.names import did_you_mean, listing
from pipelines.shards import array_record, parquet, tfrecord
from pipelines.shards.values import WORDS, Chunk, Kind


@dataclasses.dataclass(frozen=True)
class Format:
    """How files of one kind are read for the first time.

    Attributes:
        kinds: the columns of a file that can be used; None where it has no records.
        scan: its records, from the first to the last, of the columns wanted.
        unusable: its other columns, with their types.
        looked_at: where in a file `kinds` looks, for messages.
    """

    kinds: Callable[[str], dict[str, Kind] | None]
    scan: Callable[[str, Mapping[str, Kind]], Iterator[Chunk]]
    unusable: Callable[[str], Mapping[str, str]] = lambda path: {}
    looked_at: str = " in its first records"


FORMATS: Mapping[str, Format] = {
    "tfrecord": Format(tfrecord.kinds, tfrecord.scan),
    "parquet": Format(parquet.kinds, parquet.scan, parquet.unusable, ""),
    "arrayrecord": Format(array_record.kinds, array_record.scan),
}
# As TensorFlow Datasets and others name them: train.tfrecord, train.tfrecord-00003-of-00008.
_ENDING = re.compile(r"\.(tfrecords?|parquet|array_?record)(-\d+-of-\d+)?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class FileSet:
    """The files of a split, in the order of their names.

    Attributes:
        paths: where they are.
        origin: what they are called in messages.
        key: the configuration key that they come from.
    """

    paths: tuple[str, ...]
    origin: str
    key: str

    def stamps(self) -> list[list[Any]]:
        """What tells an unchanged file: path, size and time of the last change."""
        found = [(path, os.stat(path)) for path in self.paths]
        return [[os.path.abspath(path), stat.st_size, stat.st_mtime_ns] for path, stat in found]


def find(data_dir: Path | str, pattern: str, key: str) -> FileSet:
    """The files that a path or a pattern names; local copies of them where they are remote.

    Raises:
        MissingFileError: there is none.
        UserError: it is a folder.
    """
    where = remote.join(data_dir, pattern)
    if not remote.is_remote(where) and (Path(where).exists() or not glob.has_magic(where)):
        if Path(where).is_dir():
            raise UserError(f"{where} ({key}) is a folder; give a file, or a pattern such as {pattern}/*.tfrecord")
        names = [str(require_file(Path(where), key))]
    else:
        names = remote.matching_below(data_dir, pattern)
    if not names:
        raise MissingFileError(f"no file is like {where} ({key}){_there(where)}")
    paths = tuple(str(path) for path in remote.local_files(names))
    return FileSet(paths, where if len(names) > 1 else names[0], key)


def _there(where: str) -> str:
    """What is there instead, for a message."""
    folder = Path(where).parent
    if remote.is_remote(where):
        return ""
    if not folder.is_dir():
        return f"; there is no folder {folder}"
    return f"; files there: {listing(sorted(os.listdir(folder)), 6)}"


def format_of(files: FileSet, wanted: str | None) -> str:
    """The format of the files, by their names' endings where it is not given.

    Raises:
        UserError: an ending says nothing, or the files are of different formats.
    """
    if wanted is not None:
        return wanted
    found: dict[str, str] = {}
    for path in files.paths:
        match = _ENDING.search(os.path.basename(path))
        if match is None:
            raise UserError(
                f"{path} ({files.key}) ends in none of .tfrecord, .parquet and .array_record; set data.format to one "
                f"of {listing(FORMATS)}"
            )
        found.setdefault(match[1].lower().rstrip("s").replace("_", ""), path)
    if len(found) > 1:
        (first, one), (second, other) = list(found.items())[:2]
        raise UserError(f"{one} is {first} and {other} is {second}; {files.key} must name files of one format")
    return next(iter(found))


def common_kinds(sets: Mapping[Split, FileSet], format_name: str) -> tuple[str, dict[str, Kind]]:
    """The first file with records, its columns and what they hold.

    Raises:
        UserError: no file has any.
    """
    for files in sets.values():
        for path in files.paths:
            kinds = FORMATS[format_name].kinds(path)
            if kinds:
                return path, kinds
    first = next(iter(sets.values()))
    raise UserError(
        f"{first.origin} ({first.key}) has no records with columns; at least one example per class was expected"
    )


def check_columns(files: FileSet, format_name: str, wanted: Mapping[str, Kind], first: str) -> None:
    """Checks that every file has the columns that are used.

    Args:
        files: the files.
        format_name: their format.
        wanted: the columns, and what they hold in the first file.
        first: that file.

    Raises:
        UserError: a file has not, or other ones of the same name; the message names both files.
    """
    for path in files.paths:
        form = FORMATS[format_name]
        kinds = form.kinds(path)
        if kinds is None:
            continue  # an empty file: some of many shards may be
        unusable = {} if wanted.keys() <= kinds.keys() else form.unusable(path)
        for name, kind in wanted.items():
            if name in unusable:
                raise UserError(
                    f"column {name} is of type {unusable[name]:.80} in {path} and holds {WORDS[kind]} in {first}; "
                    "write all files alike"
                )
            if name not in kinds:
                raise UserError(
                    f'{path} has no column "{name}"{form.looked_at}, which {first} has; {did_you_mean(name, kinds)}'
                )
            if kinds[name] != kind:
                raise UserError(
                    f"column {name} holds {WORDS[kinds[name]]} in {path} and {WORDS[kind]} in {first}; write all files "
                    "alike"
                )
